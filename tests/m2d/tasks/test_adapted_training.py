"""A training of adapters, watched: what it leaves, what it resumes from, what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from m2d.errors import CheckpointError, RecipeError
from m2d.families.loading import load_transformer
from m2d.model.lora import FILE
from m2d.progress import SilentReporter
from m2d.tasks.train import TrainingReport, plan_training, run
from tests.m2d.model.tiny_model import build_tiny_model

STEPS = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def recipe_file(folder: Path, model: Path, **changes: Any) -> Path:
    document = {
        "title": "tiny adapters",
        "stage": "sft",
        "model": str(model),
        "init": str(model),
        "data": {"source": "builtin:puppet", "num_stories": 12, "held_out": 2},
        "video": {"num_frames": 9, "height": 32, "width": 32},
        "num_scenes": 3,
        "objective": {"conditional_probability": 0.5},
        "steps": STEPS,
        "batch_size": 4,
        "optimizer": {"name": "adamw", "lr": 1.0e-2},
        "lora": {"rank": 2},
        "evaluation": {"num_samples": 2},
        "log_every_steps": 2,
        "export_dtype": "float32",
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def train(recipe: Path, run_folder: Path, cache: Path, **options: Any) -> TrainingReport:
    limit = options.pop("max_minutes", None)
    plan = plan_training(recipe, run=run_folder, cache=cache, num_threads=1, **options)
    return run(replace(plan, max_minutes=limit), SilentReporter())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path, cache: Path) -> TrainingReport:
    folder = tmp_path_factory.mktemp("trained")
    return train(recipe_file(folder, model), folder / "run", cache)


def test_the_model_folder_has_merged_weights_and_the_adapters_beside_them(
    trained: TrainingReport, model: Path
) -> None:
    import torch

    base = load_transformer(model, device="cpu", dtype=torch.float32).state_dict()
    merged = load_transformer(trained.model, device="cpu", dtype=torch.float32).state_dict()
    changed = {name for name, weight in base.items() if not torch.equal(weight, merged[name])}
    assert changed
    assert all(".attn1.to_" in name for name in changed)
    other = load_transformer(model, device="cpu", dtype=torch.float32)
    other.load_lora_adapter(str(trained.model / "lora"), weight_name=FILE, prefix="transformer")
    other.fuse_lora()
    other.unload_lora()
    for name, weight in other.state_dict().items():
        torch.testing.assert_close(weight, merged[name], rtol=0, atol=1e-6)


def test_checkpoints_hold_the_adapters_alone(trained: TrainingReport) -> None:
    newest = sorted((trained.model.parent / "checkpoints").iterdir())[-1]
    for file in ("weights.safetensors", "ema.safetensors"):
        assert all(".lora_" in name for name in load_file(newest / file))


def test_the_card_tells_of_the_adapters(trained: TrainingReport) -> None:
    text = (trained.model / "README.md").read_text(encoding="utf-8")
    assert "Only low-rank adapters were trained (rank 2)" in text
    assert (trained.model / "curves.png").stat().st_size > 0


def test_a_resumed_training_of_adapters_ends_with_the_same_weights(
    trained: TrainingReport, model: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path, model)
    assert train(recipe, tmp_path / "run", cache, max_minutes=0.0).step == 1
    report = train(recipe, tmp_path / "run", cache, resume=True)
    assert report.step == STEPS
    part = "transformer/diffusion_pytorch_model.safetensors"
    assert (report.model / part).read_bytes() == (trained.model / part).read_bytes()
    adapters, expected = (each.model / "lora" / FILE for each in (report, trained))
    assert adapters.read_bytes() == expected.read_bytes()


def test_dropout_of_adapters_resumes_to_the_same_bits(model: Path, cache: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, model, lora={"rank": 2, "dropout": 0.5}, steps=2)
    weights = []
    for name, limits in (("straight", []), ("stopped", [0.0])):
        for number, limit in enumerate([*limits, None]):
            train(recipe, tmp_path / name, cache, max_minutes=limit, resume=bool(number))
        newest = sorted((tmp_path / name / "checkpoints").iterdir())[-1]
        weights.append((newest / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_adapters_of_other_weights_are_not_gone_on_with(
    model: Path, cache: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    train(recipe_file(tmp_path, model), tmp_path / "run", cache, max_minutes=0.0)
    other = train(
        recipe_file(tmp_path_factory.mktemp("other"), model, lora=None, steps=1), tmp_path / "other", cache
    )
    with pytest.raises(CheckpointError, match="the frozen weights that the adapters belong to differ"):
        train(recipe_file(tmp_path, model), tmp_path / "run", cache, init=str(other.model), resume=True)


def test_a_run_of_adapters_is_no_start_but_its_model_is(
    trained: TrainingReport, model: Path, cache: Path, tmp_path: Path
) -> None:
    recipe = recipe_file(tmp_path, model, lora=None, steps=1)
    run_folder = trained.model.parent
    with pytest.raises(CheckpointError, match=r"training of adapters, .* give its model folder"):
        train(recipe, tmp_path / "run", cache, init=str(run_folder))
    assert train(recipe, tmp_path / "run", cache, init=str(trained.model)).step == 1


def test_adapters_with_an_optimizer_for_whole_matrices_are_refused(model: Path, tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, model, optimizer={"name": "muon", "lr": 1e-3, "matrix_lr": 3e-3})
    with pytest.raises(RecipeError, match="muon moves whole matrices, and lora trains two thin ones"):
        plan_training(recipe)


def story(folder: Path, **changes: Any) -> str:
    document = {
        "title": "Some balls",
        "scenes": ["a red ball", "a blue ball"],
        "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0},
        **changes,
    }
    path = folder / "balls.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def test_a_watched_training_leaves_films_and_tells_its_trackers(
    trained: TrainingReport, model: Path, cache: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    watched = {"validation": {"stories": [story(tmp_path)], "every_steps": 2}, "trackers": ["tensorboard"]}
    report = train(recipe_file(tmp_path, model, **watched), tmp_path / "run", cache)
    films = sorted(path.parent.name for path in (tmp_path / "run" / "validation").glob("*/balls.mp4"))
    assert films == ["step-00000002", "step-00000004"]
    assert (tmp_path / "run" / "validation" / films[0] / "balls.m2d" / "sheet.png").is_file()
    assert list((tmp_path / "run" / "trackers").rglob("events.out.tfevents.*"))
    # Looking on changes nothing.
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert (report.model / weights).read_bytes() == (trained.model / weights).read_bytes()


def test_a_story_that_cannot_be_made_is_told_before_the_first_step(
    model: Path, cache: Path, tmp_path: Path
) -> None:
    wrong = story(tmp_path, video={"num_frames": 6})
    recipe = recipe_file(tmp_path, model, validation={"stories": [wrong], "every_steps": 1})
    with pytest.raises(RecipeError, match="num_frames: 6"):
        train(recipe, tmp_path / "run", cache)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
