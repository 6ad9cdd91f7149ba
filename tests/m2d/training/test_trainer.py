from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from m2d.errors import Interrupted
from m2d.files import sha256_file
from m2d.stop import StopRequest
from m2d.training.log import read_log
from m2d.training.recipe import TrainingRecipe
from m2d.training.state import find_checkpoint, load_checkpoint
from m2d.training.trainer import DivergedError, Trainer

MakeTrainer = Callable[..., Trainer]
MakeRecipe = Callable[..., TrainingRecipe]
PARTS = ("weights", "ema", "optimizer")


def _digests(run: Path) -> dict[str, str]:
    path = find_checkpoint(run).path
    assert path is not None
    return {part: sha256_file(path / f"{part}.safetensors") for part in PARTS}


def _run_until(trainer: Trainer, step: int) -> None:
    while trainer.state.step < step:
        trainer._do_step()
    trainer._save()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stops", [(4,), (1, 2), (1, 2, 3, 4, 5, 6, 7)])
def test_an_interrupted_training_ends_with_the_same_bits(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, stops: tuple[int, ...], optimizer: str
) -> None:
    # 20 training stories in batches of 4: step 5 starts the second epoch.
    rates = {"lr": 1e-3, "matrix_lr": 3e-3 if optimizer == "muon" else None}
    recipe = make_recipe(optimizer={"name": optimizer, **rates})
    make_trainer(recipe, "straight").run()
    for stop in (*stops, recipe.steps):
        trainer = make_trainer(recipe, "stopped")
        path = find_checkpoint(tmp_path / "stopped").path
        if path is not None:
            load_checkpoint(path, trainer.state)
        _run_until(trainer, stop)
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "straight")


@pytest.mark.parametrize("stage", ["base", "pretrain", "sft"])
def test_every_stage_learns(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, stage: str
) -> None:
    recipe = make_recipe(
        stage=stage,
        num_scenes=1 if stage == "base" else 3,
        objective={"conditional_probability": 0.5 if stage == "sft" else 0.0},
        steps=60,
        ema_decay=0.9,
        evaluation={"every_steps": 30, "num_samples": 4},
    )
    trainer = make_trainer(recipe)
    untrained = trainer.held_out_loss()["loss"]
    assert trainer.run() == "finished"
    losses = [event["loss"] for event in read_log(tmp_path / "run") if event["event"] == "held-out"]
    assert len(losses) == 2
    assert losses[-1] < 0.8 * untrained


def test_a_conditional_sample_is_logged_as_its_own_branch(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_trainer(make_recipe(objective={"conditional_probability": 1.0})).run()
    events = [event for event in read_log(tmp_path / "run") if event["event"] == "train"]
    assert all(event["loss_full"] is None and event["loss_conditional"] > 0 for event in events)
    assert [event["step"] for event in events] == [2, 4, 6, 8]


def test_time_up_stops_with_a_checkpoint(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    assert make_trainer(make_recipe()).run(max_minutes=0.0) == "out of time"
    path = find_checkpoint(tmp_path / "run").path
    assert path is not None
    assert path.name == "step-00000001"


def test_sigterm_saves_within_one_step_and_is_resumable(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    with StopRequest() as stop:
        trainer = make_trainer(make_recipe(), stop=stop)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(
            Interrupted, match=r"SIGTERM after step 0 of 8; saved in .*--resume latest"
        ) as caught:
            trainer.run()
    assert caught.value.exit_code == 75
    assert find_checkpoint(tmp_path / "run").path is not None


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    trainer = make_trainer(make_recipe())
    _run_until(trainer, 2)
    weight = trainer.state.model.get_parameter("proj_out.weight")
    with torch.no_grad():
        weight[0, 0] = torch.inf
    before = {name: value.clone() for name, value in trainer.state.model.state_dict().items()}
    with pytest.raises(DivergedError, match=r"step 2: loss (inf|nan).* lower the learning rate"):
        trainer.run()
    assert all(torch.equal(value, before[name]) for name, value in trainer.state.model.state_dict().items())
    report = json.loads((tmp_path / "run" / "diverged-step-00000002.json").read_text())
    assert report["seed"] == 5
    assert len(report["samples"]) == 4
    assert (find_checkpoint(tmp_path / "run").path or Path()).name == "step-00000002"


def test_a_resumed_log_does_not_repeat_steps(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()
    make_trainer(recipe).run()
    trainer = make_trainer(recipe)
    trainer.state.step = 4
    trainer.run()
    steps = [event["step"] for event in read_log(tmp_path / "run") if event["event"] == "train"]
    assert steps == [2, 4, 6, 8]


@pytest.mark.parametrize(
    "changes", [{"precision": "bfloat16"}, pytest.param({"compile": True}, marks=pytest.mark.long)]
)
def test_mixed_precision_and_compilation_resume_to_the_same_bits_and_follow_plain_training(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, object]
) -> None:
    rates = {"lr": 1e-3, "matrix_lr": 3e-3}
    recipe = make_recipe(optimizer={"name": "muon", **rates}, **changes)
    make_trainer(recipe, "straight").run()
    for stop in (3, recipe.steps):
        trainer = make_trainer(recipe, "stopped")
        path = find_checkpoint(tmp_path / "stopped").path
        if path is not None:
            load_checkpoint(path, trainer.state)
        _run_until(trainer, stop)
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "straight")
    changed = make_trainer(recipe, "straight")
    plain = make_trainer(make_recipe(optimizer={"name": "muon", **rates}), "plain")
    plain.run()
    path = find_checkpoint(tmp_path / "straight").path
    assert path is not None
    load_checkpoint(path, changed.state)
    # bfloat16 keeps 8 bits: each step's gradients agree to about a percent.
    assert changed.held_out_loss()["loss"] == pytest.approx(plain.held_out_loss()["loss"], rel=0.02)


def test_weights_stay_float32_in_mixed_precision(make_trainer: MakeTrainer, make_recipe: MakeRecipe) -> None:
    trainer = make_trainer(make_recipe(precision="bfloat16"))
    trainer.run()
    state = trainer.state
    tensors = [*state.model.parameters(), *state.optimizer.state_tensors().values()]
    assert {tensor.dtype for tensor in tensors} <= {torch.float32, torch.int64}
