from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from m2d.errors import CheckpointError, InputError, OutputError, RecipeError
from m2d.families.source import resolve_model
from m2d.files import sha256_file
from m2d.progress import SilentReporter
from m2d.tasks.train import TrainingReport, plan_training, run
from m2d.tasks.training_recipe import load_training_recipe
from tests.m2d.model.tiny_model import build_tiny_model

BASE = """\
title: tiny base
stage: base
model: {model}
init: random
transformer: {{num_layers: 2, num_attention_heads: 2, attention_head_dim: 16, patch_size: 2,
  time_embed_dim: 16, max_text_tokens: 40}}
data: {{source: builtin:puppet, num_stories: 12, held_out: 2}}
video: {{num_frames: 9, height: 32, width: 32}}
num_scenes: 1
steps: 4
batch_size: 4
optimizer: {{name: muon, lr: 1.0e-3, matrix_lr: 3.0e-3}}
evaluation: {{num_samples: 4}}
export_dtype: float32
"""
SFT = """\
title: tiny sft
stage: sft
model: {model}
init: {init}
data: {{source: builtin:puppet, num_stories: 12, held_out: 2}}
video: {{num_frames: 9, height: 32, width: 32}}
num_scenes: 3
objective: {{conditional_probability: 0.5}}
steps: 2
batch_size: 4
optimizer: {{name: adamw, lr: 1.0e-3}}
evaluation: {{num_samples: 2}}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def recipe(tmp_path: Path, model: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE.format(model=model))
    return path


def _train(recipe: Path, run_folder: Path, cache: Path, *, resume: bool = False) -> TrainingReport:
    return run(plan_training(recipe, run=run_folder, cache=cache, resume=resume), SilentReporter())


def test_a_base_training_leaves_a_model_folder_that_the_next_stage_starts_from(
    recipe: Path, tmp_path: Path, cache: Path, model: Path
) -> None:
    report = _train(recipe, tmp_path / "base", cache)
    assert (report.outcome, report.step) == ("finished", 4)
    source = resolve_model(str(report.model))
    assert source.is_puppet
    assert source.geometry.num_scenes == 1

    sft = tmp_path / "sft.yaml"
    sft.write_text(SFT.format(model=model, init=tmp_path / "base"))
    exported = _train(sft, tmp_path / "sft", cache).model / "transformer"
    weights = load_file(exported / "diffusion_pytorch_model.safetensors")
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float16"}
    assert json.loads((exported / "config.json").read_text())["sample_frames"] == 9


def test_more_steps_continue_a_finished_training(recipe: Path, tmp_path: Path, cache: Path) -> None:
    _train(recipe, tmp_path / "run", cache)
    recipe.write_text(recipe.read_text().replace("steps: 4", "steps: 6"))
    assert _train(recipe, tmp_path / "run", cache, resume=True).step == 6


def test_a_training_is_never_started_over_another_one(recipe: Path, tmp_path: Path, cache: Path) -> None:
    _train(recipe, tmp_path / "run", cache)
    with pytest.raises(OutputError, match="holds a training already"):
        _train(recipe, tmp_path / "run", cache)


def test_resuming_with_another_recipe_names_the_fields(recipe: Path, tmp_path: Path, cache: Path) -> None:
    _train(recipe, tmp_path / "run", cache)
    recipe.write_text(recipe.read_text().replace("batch_size: 4", "batch_size: 5"))
    with pytest.raises(CheckpointError, match="another training: batch_size was 4 and is 5"):
        _train(recipe, tmp_path / "run", tmp_path / "empty", resume=True)
    assert not (tmp_path / "empty").exists(), "the stories were encoded first"


def test_resuming_with_another_noise_schedule_names_it(
    recipe: Path, tmp_path: Path, cache: Path, model: Path
) -> None:
    _train(recipe, tmp_path / "run", cache)
    other = shutil.copytree(model, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"snr_shift_scale": 1.0', '"snr_shift_scale": 3.0'))
    recipe.write_text(BASE.format(model=other))
    with pytest.raises(CheckpointError, match=r"training: scheduler.snr_shift_scale was 1.0 and is 3.0$"):
        _train(recipe, tmp_path / "run", cache, resume=True)


def test_resuming_nothing_is_an_error_and_no_silent_restart(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run: nothing to resume, it has no checkpoint$"):
        _train(recipe, tmp_path / "run", tmp_path / "empty", resume=True)
    assert not (tmp_path / "empty").exists(), "the stories were encoded first"
    assert not (tmp_path / "run").exists()


def test_stories_are_encoded_once(recipe: Path, tmp_path: Path, cache: Path) -> None:
    _train(recipe, tmp_path / "first", cache)
    before = {path: (path.stat().st_mtime_ns, sha256_file(path)) for path in cache.rglob("*.safetensors")}
    _train(recipe, tmp_path / "second", cache)
    after = {path: (path.stat().st_mtime_ns, sha256_file(path)) for path in cache.rglob("*.safetensors")}
    assert before == after
    assert len(before) == 1


def test_the_stage_on_the_command_line_must_be_the_recipes(recipe: Path) -> None:
    with pytest.raises(InputError, match=r"^stage sft: .*base.yaml is a recipe for stage base"):
        load_training_recipe(recipe, stage="sft")


def test_a_wrong_recipe_names_every_problem_with_its_line(recipe: Path) -> None:
    text = recipe.read_text().replace("num_scenes: 1", "num_scenes: 3").replace("steps: 4", "stepz: 4")
    recipe.write_text(text)
    with pytest.raises(RecipeError, match=r"base.yaml:\d+:\d+: stepz: unknown key; did you mean steps"):
        plan_training(recipe)


def test_single_scenes_have_no_scene_guidance(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "objective: {scene_guidance: 0.5}\n")
    with pytest.raises(RecipeError, match=r"objective\.scene_guidance: a single scene sees no other"):
        plan_training(recipe)


@pytest.mark.parametrize("stage", ["base", "pretrain", "sft"])
def test_the_shipped_recipes_are_correct(stage: str) -> None:
    folder = Path(__file__).parents[3] / "recipes" / "training"
    assert load_training_recipe(folder / f"puppet-{stage}.yaml", stage=stage).title == f"puppet {stage}"
