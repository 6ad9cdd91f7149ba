from __future__ import annotations

from pathlib import Path

import typer
from typer.testing import CliRunner

from m2d.cli.train import train
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


def test_the_command_trains_prints_the_model_folder_and_goes_on_from_there(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(train)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE)
    model = build_tiny_model(tmp_path / "parts")
    words = [str(recipe), "--stage", "base", "--model", str(model), "--out", str(tmp_path / "run"), "-q"]
    words += ["--cache", str(tmp_path / "cache"), "--threads", "1"]
    first = CliRunner().invoke(app, words)
    assert first.stdout == f"{tmp_path / 'run' / 'model'}\n"
    recipe.write_text(RECIPE.replace("steps: 2", "steps: 3"))
    again = CliRunner().invoke(app, [*words, "--resume", "latest"])
    assert again.exit_code == 0
    assert (tmp_path / "run" / "checkpoints" / "step-00000003").is_dir()
