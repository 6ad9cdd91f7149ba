from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2d.cli.main import app
from tests.m2d.model.tiny_model import build_tiny_model

RECIPE = """\
title: tiny base
stage: base
model: builtin:puppet
init: random
transformer: {num_layers: 1, num_attention_heads: 1, attention_head_dim: 16, patch_size: 2,
  time_embed_dim: 8, max_text_tokens: 40}
data: {source: builtin:puppet, num_stories: 4, held_out: 2}
video: {num_frames: 5, height: 32, width: 32}
num_scenes: 1
steps: 2
batch_size: 2
optimizer: {name: adamw, lr: 1.0e-3}
evaluation: {num_samples: 2}
"""


def test_the_command_trains_prints_the_model_folder_and_resumes_there(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    model = build_tiny_model(tmp_path / "parts")
    words = [
        "train",
        str(recipe),
        "--stage",
        "base",
        "--model",
        str(model),
        "--out",
        str(tmp_path / "run"),
        "-q",
    ]
    words += ["--cache", str(tmp_path / "cache"), "--threads", "1"]
    first = CliRunner().invoke(app, words)
    assert first.stdout == f"{tmp_path / 'run' / 'model'}\n"
    again = CliRunner().invoke(app, [*words, "--resume", "--set", "steps=3"])
    assert again.exit_code == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
    # The spelling of earlier versions; nothing is left to do.
    assert CliRunner().invoke(app, [*words, "--resume", "latest", "--set", "steps=3"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nope.yaml"], "error: nope.yaml: no such file"),
        (["tiny.yaml", "--set", "optimizer.lr=-1"], "command line: --set optimizer.lr: must be more than 0"),
        (
            ["tiny.yaml", "--set", "learning_rate=1"],
            "--set learning_rate: unknown key; did you mean optimizer.lr?",
        ),
        (["tiny.yaml", "--set", "model=x", "--model", "y"], "--set model: --model sets this field, too"),
        (["tiny.yaml", "--stage", "sft"], "--stage sft: tiny.yaml is a recipe for stage base"),
    ],
)
def test_arguments_are_checked_before_the_libraries_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(RECIPE)
    monkeypatch.setitem(sys.modules, "m2d.tasks.train", None)
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give a training recipe, or your clips with --data FOLDER"),
        (["a.yaml", "--data", "clips"], "--data clips: the recipe a.yaml names its own data"),
        (["--data", "clips"], "--data clips: no such folder or file"),
        (["--data", ".", "--init", "random"], "--init random: training on --data starts from --model"),
        (["."], ".: is a dataset, not a training recipe; `m2d train --data FOLDER` chooses a recipe"),
    ],
)
def test_options_that_contradict_each_other_are_refused_at_once(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["train", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert "load libraries" not in result.stderr


def test_a_missing_recipe_names_training_on_clips() -> None:
    result = CliRunner().invoke(app, ["train", "nothere.yaml"])
    assert result.exit_code == 2
    assert "nothere.yaml: no such file; `m2d train --data FOLDER` chooses a recipe" in result.stderr
