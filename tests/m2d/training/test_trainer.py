from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from m2d.errors import InputError, Interrupted, Remedy
from m2d.files import sha256_file
from m2d.layout import SceneLayout
from m2d.progress import SilentReporter
from m2d.stop import StopRequest
from m2d.training.batches import BatchMaker
from m2d.training.cache import EncodedStories
from m2d.training.log import read_log
from m2d.training.objective import TrainingBatch
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.state import TrainState, find_checkpoint, load_checkpoint
from m2d.training.step import DivergedError
from m2d.training.trainer import Trainer, Watchers
from tests.m2d.training.conftest import TEXT_TOKENS, tiny_setup, tiny_state

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


@pytest.mark.parametrize(("optimizer", "accumulate"), [("muon", 1), ("adamw", 2)])
@pytest.mark.parametrize("stops", [(4,), (1, 2), (1, 2, 3, 4, 5, 6, 7)])
def test_an_interrupted_training_ends_with_the_same_bits(
    make_trainer: MakeTrainer,
    make_recipe: MakeRecipe,
    tmp_path: Path,
    stops: tuple[int, ...],
    optimizer: str,
    accumulate: int,
) -> None:
    # 20 training stories in batches of 4: step 5 starts the second epoch.
    rates = {"lr": 1e-3, "matrix_lr": 3e-3 if optimizer == "muon" else None}
    recipe = make_recipe(optimizer={"name": optimizer, **rates}, accumulate=accumulate)
    make_trainer(recipe, "straight").run()
    for stop in (*stops, recipe.steps):
        trainer = make_trainer(recipe, "stopped")
        path = find_checkpoint(tmp_path / "stopped").path
        if path is not None:
            load_checkpoint(path, trainer.state)
        _run_until(trainer, stop)
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "straight")


def test_scene_guidance_changes_what_is_learned_and_not_the_held_out_loss(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe
) -> None:
    recipes = [make_recipe(objective={"scene_guidance": share}) for share in (0.0, 0.5)]
    plain, guided = (make_trainer(recipe, f"run {number}") for number, recipe in enumerate(recipes))
    assert plain.held_out_loss() == guided.held_out_loss()
    for trainer in (plain, guided):
        trainer._do_step()
    weights = [trainer.state.model.state_dict() for trainer in (plain, guided)]
    assert any(not torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


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
            Interrupted,
            match=r"SIGTERM after step 0 of 8; saved in ",
            check=lambda error: error.remedy is Remedy.RESUME_TRAINING,
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


class _Died(Exception):
    pass


def test_a_training_that_dies_between_microbatches_goes_on_to_the_same_bits(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(accumulate=2, checkpoint={"every_steps": 2})
    make_trainer(recipe, "straight").run()
    make, calls = BatchMaker.make, []

    def die_at_the_twelfth(*args: Any, **named: Any) -> TrainingBatch:
        calls.append(named["step"])
        if len(calls) == 12:
            raise _Died
        return make(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(BatchMaker, "make", die_at_the_twelfth)
        with pytest.raises(_Died):
            # Two held-out batches of one call each come after step 4: the twelfth is within a later step.
            make_trainer(recipe, "stopped").run()
    path = find_checkpoint(tmp_path / "stopped").path
    assert path is not None
    trainer = make_trainer(recipe, "stopped")
    load_checkpoint(path, trainer.state)
    assert 0 < trainer.state.step < recipe.steps
    trainer.run()
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "straight")


def test_recomputing_activations_changes_no_bit(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_trainer(make_recipe(steps=3), "plain").run()
    make_trainer(make_recipe(steps=3, gradient_checkpointing=True), "recomputed").run()
    assert _digests(tmp_path / "recomputed") == _digests(tmp_path / "plain")


def test_microbatches_learn_what_the_whole_batch_does(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    for name, accumulate in (("whole", 1), ("parts", 4)):
        make_trainer(make_recipe(accumulate=accumulate, log_every_steps=1), name).run()
    whole, parts = (
        [event["loss"] for event in read_log(tmp_path / name) if event["event"] == "train"]
        for name in ("whole", "parts")
    )
    assert parts == pytest.approx(whole, rel=1e-5)


def test_a_signal_during_an_evaluation_ends_it_and_loses_no_step(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = StopRequest()
    trainer = make_trainer(make_recipe(evaluation={"every_steps": 3, "num_samples": 8}), stop=stop)
    evaluate, seen = trainer.held_out_loss, []

    def evaluate_with_a_signal() -> dict[str, Any]:
        seen.append(trainer.state.step)
        monkeypatch.setattr(StopRequest, "reason", "SIGTERM")
        return evaluate()

    monkeypatch.setattr(trainer, "held_out_loss", evaluate_with_a_signal)
    with pytest.raises(Interrupted, match="SIGTERM after step 3 of 8"):
        trainer.run()
    assert seen == [3]
    assert (find_checkpoint(tmp_path / "run").path or Path()).name == "step-00000003"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_reaches_no_weight(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, value: float
) -> None:
    trainer = make_trainer(make_recipe())
    before = {name: weight.clone() for name, weight in trainer.state.model.state_dict().items()}
    trainer.state.model.get_parameter("proj_out.bias").register_hook(lambda grad: grad.fill_(value))
    with pytest.raises(DivergedError, match=r"step 0: loss 0\.\d+, gradient norm (nan|inf) are not finite"):
        trainer.run()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.state.model.state_dict().items())
    assert find_checkpoint(tmp_path / "run").path is None


def test_a_batch_that_cannot_be_shared_evenly_is_refused(
    encoded: EncodedStories, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    setup = tiny_setup(make_recipe(), encoded, run=tmp_path / "run", processes=Processes(count=3))
    with pytest.raises(InputError, match="batch_size: 4 samples cannot be shared evenly by 3 devices"):
        Trainer(setup, tiny_state(make_recipe()), reporter=SilentReporter(), stop=StopRequest())


class _Watcher:
    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []

    def log(self, kind: str, *, step: int, values: Mapping[str, Any]) -> None:
        assert values["loss"] > 0
        self.events.append((kind, step))

    def finish(self) -> None:
        self.events.append(("finish", 0))

    def after_step(self, state: TrainState) -> None:
        self.events.append(("step", state.step))


def test_watchers_are_told_what_the_log_is_and_shown_every_step(
    encoded: EncodedStories, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    watcher, recipe = _Watcher(), make_recipe(steps=3, log_every_steps=2)
    setup = tiny_setup(recipe, encoded, run=tmp_path / "run")
    watchers = Watchers(of_log=[watcher], of_steps=[watcher.after_step])
    state, stop = tiny_state(recipe), StopRequest()
    Trainer(setup, state, reporter=SilentReporter(), stop=stop, watchers=watchers).run()
    train, held_out = ("train", 3), ("held-out", 3)
    steps = [("step", 1), ("step", 2), ("train", 2), ("step", 3)]
    assert watcher.events == [*steps, train, held_out, ("finish", 0)]


def test_the_log_tells_losses_by_branch_scene_and_noise_and_how_fast_it_went(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_trainer(make_recipe(steps=8, log_every_steps=8)).run()
    event = next(event for event in read_log(tmp_path / "run") if event["event"] == "train")
    assert event["stage"] == "sft"
    assert (len(event["loss_by_scene"]), len(event["loss_by_timestep"])) == (3, 5)
    # Only the last scene is denoised in conditional samples, so the first's mean is over the full ones alone.
    assert event["loss_by_scene"][0] is not None
    assert 0 < event["mfu"] < 1
    assert event["tokens_per_s"] == pytest.approx(event["samples_per_s"] * 3 * (4 + 2 * 4), rel=0.01)
    assert 0 < event["data_share"] < 1


def test_without_held_out_stories_all_are_trained_on_and_no_held_out_loss_is_measured(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    trainer = make_trainer(make_recipe(data={"source": "builtin:puppet", "num_stories": 24, "held_out": 0}))
    assert trainer.run() == "finished"
    assert trainer.held_out_loss() == {}
    assert trainer._stepper._sampler.num_samples == 24
    assert {event["event"] for event in read_log(tmp_path / "run")} == {"train"}


class _TwoSizes:
    """Stories of which every other one has scenes of half the frames and half the width."""

    def __init__(self, stories: EncodedStories) -> None:
        self.digest, self.num_stories, self.scene_counts = "two", stories.num_stories, stories.scene_counts
        self.empty_embeds_LD = stories.empty_embeds_LD
        self.buckets = tuple(story % 2 for story in range(stories.num_stories))
        self._stories = stories

    def first_held_out(self, count: int) -> int:
        return self._stories.first_held_out(count)

    def expect(self, *_: Any, **__: Any) -> None:
        pass

    def gather(
        self, stories_BN: torch.Tensor, scenes_BN: torch.Tensor, *, epoch: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        latents, embeds = self._stories.gather(stories_BN, scenes_BN, epoch=epoch)
        if int(stories_BN[0, 0]) % 2:
            latents = latents[:, ::2, :, :, :2]
        return latents, embeds


def test_a_training_on_two_sizes_uses_both_and_resumes_with_the_same_bits(
    encoded: EncodedStories, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = make_recipe()

    def trainer(run: str) -> Trainer:
        setup = tiny_setup(recipe, encoded, run=tmp_path / run)
        small = SceneLayout.build(
            recipe.mask, text_tokens=[TEXT_TOKENS] * 3, latent_frames=[1] * 3, tokens_per_frame=2
        )
        setup = replace(setup, stories=_TwoSizes(encoded), layouts={**setup.layouts, (1, 4, 2): small})
        return Trainer(setup, tiny_state(recipe), reporter=SilentReporter(), stop=StopRequest())

    trainer("straight").run()
    for stop in (3, recipe.steps):
        stopped = trainer("stopped")
        path = find_checkpoint(tmp_path / "stopped").path
        if path is not None:
            load_checkpoint(path, stopped.state)
        _run_until(stopped, stop)
    assert _digests(tmp_path / "stopped") == _digests(tmp_path / "straight")
    # 10 training stories of each size in batches of 4: an epoch has 2 steps of each, and there are 2 epochs.
    events = [event for event in read_log(tmp_path / "straight") if event["event"] == "train"]
    tokens = sum(event["tokens_per_s"] / event["samples_per_s"] for event in events) / len(events)
    sizes = [layout.num_tokens for layout in trainer("sizes").setup.layouts.values()]
    assert tokens == pytest.approx(sum(sizes) / 2, rel=0.02)
