from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError, Interrupted, M2DError
from m2d.progress import SilentReporter, StageProgress
from m2d.puppet.training import attribute_classifier as reader_training
from m2d.puppet.training.attribute_classifier import classifier_fit
from m2d.puppet.training.fitting import Fit, FitRecipe, run_fit
from m2d.puppet.training.text_encoder import text_encoder_fit
from m2d.puppet.training.vae import vae_fit
from m2d.stop import StopRequest
from m2d.training.log import read_log
from m2d.training.state import find_checkpoint
from tests.m2d.puppet.training.tiny_helpers import classifier_recipe, text_recipe, vae_recipe

RECIPE = FitRecipe.model_validate(
    {
        "title": "line",
        "steps": 10,
        "optimizer": {"name": "adamw", "lr": 1e-2},
        "schedule": {"name": "cosine", "warmup_steps": 2},
        "log_every_steps": 4,
        "evaluate_every_steps": 5,
        "checkpoint": {"every_s": 3600, "keep": 2},
    }
)


class Line(nn.Module):
    """A line through points, with a running mean as batch norm has one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x_BD: Tensor) -> Tensor:
        y_B1: Tensor = self.layer(x_BD)
        self.mean.lerp_(y_B1.detach().mean(), 0.5)
        return y_B1


def line_fit(run: Path, *, after: Callable[[int], None] = lambda _: None) -> Fit:
    model = Line()

    def loss_at(step: int) -> Tensor:
        points_BD = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))
        loss = (model(points_BD) - points_BD.sum(1, keepdim=True)).square().mean()
        after(step)
        return loss

    def evaluate(trained: nn.Module) -> Mapping[str, Any]:
        assert not trained.training
        return {"mean": round(float(trained.mean), 6)}

    return Fit(name="line", model=model, loss_at=loss_at, evaluate=evaluate, run=run)


def fit(made: Fit, recipe: FitRecipe, **more: Any) -> dict[str, Tensor]:
    averaged = run_fit(made, recipe, reporter=SilentReporter(), stop=StopRequest(), **more)
    return {key: value.clone() for key, value in averaged.state_dict().items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


class Stopping(StopRequest):
    """A stop request that comes after a step."""

    def come(self) -> None:
        self._signal = signal.SIGTERM


def interrupted_at(step: int, run: Path, recipe: FitRecipe = RECIPE) -> None:
    stop = Stopping()
    made = line_fit(run, after=lambda done: stop.come() if done == step else None)
    with pytest.raises(Interrupted, match=f"SIGTERM after step {step + 1}; saved in .*run the command again"):
        run_fit(made, recipe, reporter=SilentReporter(), stop=stop)


def test_an_interrupted_training_ends_as_a_straight_one(tmp_path: Path) -> None:
    straight = fit(line_fit(tmp_path / "straight"), RECIPE)
    interrupted_at(2, tmp_path / "broken")
    interrupted_at(6, tmp_path / "broken")
    assert_same(fit(line_fit(tmp_path / "broken"), RECIPE), straight)
    assert find_checkpoint(tmp_path / "broken").path == tmp_path / "broken" / "checkpoints" / "step-00000010"


@pytest.mark.parametrize("part", ["codec", "text", "reader"])
def test_every_helper_resumes_to_the_bit(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_training, "_NUM_HELD_OUT", 16)
    makers: dict[str, Any] = {
        "codec": (vae_fit, vae_recipe),
        "text": (text_encoder_fit, text_recipe),
        "reader": (classifier_fit, classifier_recipe),
    }
    make, recipe = makers[part]
    whole = recipe(steps=3, evaluate_every_steps=100)
    straight = fit(make(whole, tmp_path / "straight"), whole)
    stop = Stopping()
    made = make(whole, tmp_path / "broken")
    stopping = Fit(
        name=made.name,
        model=made.model,
        loss_at=lambda step: (stop.come() if step == 1 else None, made.loss_at(step))[1],
        evaluate=made.evaluate,
        run=made.run,
    )
    with pytest.raises(Interrupted, match="after step 2"):
        run_fit(stopping, whole, reporter=SilentReporter(), stop=stop)
    assert_same(fit(make(whole, tmp_path / "broken"), whole), straight)


def test_the_average_takes_running_statistics_as_they_are(tmp_path: Path) -> None:
    made = line_fit(tmp_path)
    averaged = fit(made, RECIPE)
    assert torch.equal(averaged["mean"], made.model.mean)  # type: ignore[arg-type]  # a buffer
    assert not torch.equal(averaged["layer.weight"], made.model.layer.weight)  # type: ignore[union-attr,arg-type]


def test_a_finished_training_is_not_trained_further(tmp_path: Path) -> None:
    finished = fit(line_fit(tmp_path), RECIPE)
    assert_same(fit(line_fit(tmp_path), RECIPE), finished)
    assert [event["step"] for event in read_log(tmp_path)] == [4, 5, 8, 10, 10]


def test_more_steps_continue_a_finished_training(tmp_path: Path) -> None:
    fit(line_fit(tmp_path), RECIPE)
    fit(line_fit(tmp_path), RECIPE.model_copy(update={"steps": 13}))
    assert find_checkpoint(tmp_path).path == tmp_path / "checkpoints" / "step-00000013"


def test_a_run_out_of_time_is_saved(tmp_path: Path) -> None:
    fit(line_fit(tmp_path), RECIPE, max_minutes=0.0)
    assert find_checkpoint(tmp_path).path == tmp_path / "checkpoints" / "step-00000000"


def test_the_log_tells_each_step_once_in_spite_of_interruptions(tmp_path: Path) -> None:
    interrupted_at(5, tmp_path)
    fit(line_fit(tmp_path), RECIPE)
    steps = [(event["event"], event["step"]) for event in read_log(tmp_path)]
    assert steps == [("train", 4), ("held-out", 5), ("train", 8), ("train", 10), ("held-out", 10)]


class Counting(SilentReporter):
    """Counts what a stage says is done."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done = 0
        self.said: list[str] = []

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        del name
        self.total = total
        yield self

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        del detail
        self.done += amount

    def note(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.said.append(message)


def test_progress_reaches_its_total_and_never_passes_it(tmp_path: Path) -> None:
    interrupted_at(5, tmp_path)
    reporter = Counting()
    run_fit(line_fit(tmp_path), RECIPE, reporter=reporter, stop=StopRequest())
    assert (reporter.done, reporter.total) == (4, 4)
    assert reporter.said == ["line: resuming after step 6"]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path: Path) -> None:
    interrupted_at(2, tmp_path)
    interrupted_at(6, tmp_path)
    weights = tmp_path / "checkpoints" / "step-00000007" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    reporter = Counting()
    averaged = run_fit(line_fit(tmp_path), RECIPE, reporter=reporter, stop=StopRequest())
    assert "step-00000007" in reporter.said[0]
    assert reporter.said[1] == "line: resuming after step 3"
    assert_same(dict(averaged.state_dict()), fit(line_fit(tmp_path.with_name("straight")), RECIPE))


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    fit(text_encoder_fit(text_recipe(steps=1), tmp_path), text_recipe(steps=1))
    with pytest.raises(CheckpointError, match="made by another model"):
        fit(line_fit(tmp_path), RECIPE)


def test_a_loss_that_is_not_finite_ends_the_training_and_saves_nothing(tmp_path: Path) -> None:
    made = line_fit(tmp_path)

    def poison(step: int) -> None:
        if step == 3:
            nn.init.constant_(made.model.layer.weight, torch.inf)  # type: ignore[union-attr,arg-type]

    with pytest.raises(M2DError, match=r"line, step 3: loss (nan|inf), gradient norm .* not finite"):
        run_fit(line_fit_of(made, poison), RECIPE, reporter=SilentReporter(), stop=StopRequest())
    assert find_checkpoint(tmp_path).path is None


def line_fit_of(made: Fit, after: Callable[[int], None]) -> Fit:
    def loss_at(step: int) -> Tensor:
        loss = made.loss_at(step)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        made.model.zero_grad()
        after(step)
        return made.loss_at(step)

    return Fit(name=made.name, model=made.model, loss_at=loss_at, evaluate=made.evaluate, run=made.run)
