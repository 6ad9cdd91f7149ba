"""A training on videos that is stopped again and again ends as one that is not, however videos are decoded.

Six stories are trained on in batches of two: an epoch has three steps, and every epoch has clips of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import yaml

from m2d.errors import Interrupted
from m2d.files import sha256_file
from m2d.progress import SilentReporter
from m2d.puppet.dataset_files import RenderPlan
from m2d.tasks.render import render
from m2d.tasks.train import plan_training, run
from m2d.training.batches import BatchMaker
from m2d.training.objective import TrainingBatch
from m2d.training.sampling import BatchDraw
from m2d.training.state import find_checkpoint
from tests.m2d.model.tiny_model import build_tiny_model

STEPS = 8
PARTS = ("weights", "ema", "optimizer")
FIRST, SECOND = 0, 1


class Stop(NamedTuple):
    """Where a training stops: at a microbatch of a step, asked to (a signal) or not (it dies)."""

    how: Literal["signal", "death"]
    step: int
    microbatch: int


# A signal lets its step end and be saved: these leave 4, 3 and 6 steps, the first of them inside an epoch.
# Deaths go back to the last checkpoint, which is made every other step.
MID_EPOCH = Stop("signal", 3, FIRST)
EPOCH_EDGE = Stop("signal", 2, SECOND)
NEXT_EDGE = Stop("signal", 5, FIRST)
MID_ACCUMULATION = Stop("death", 5, SECOND)
SEVEN = (
    Stop("signal", 0, FIRST),
    Stop("signal", 1, SECOND),
    EPOCH_EDGE,
    MID_EPOCH,
    MID_ACCUMULATION,
    NEXT_EDGE,
    Stop("death", 7, FIRST),
)


class Died(Exception):
    """The end of a process that nobody asked to end."""


class Trainings:
    """Runs one recipe on one set of videos, with any number of workers and stops."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._model = build_tiny_model(folder / "model")
        plan = RenderPlan(out=folder / "videos", num_stories=8, side=32, file_format="jsonl")
        render(plan, SilentReporter())

    def run(self, name: str, *, workers: int) -> None:
        """Start the run of this name, or go on with it."""
        folder = self._folder / name
        plan = plan_training(
            self._recipe(workers),
            run=folder,
            # Every run encodes for itself.
            cache=self._folder / f"cache-{name}",
            resume=find_checkpoint(folder).path is not None,
        )
        run(plan, SilentReporter())

    def digests(self, name: str) -> dict[str, str]:
        """What the run's last checkpoint holds."""
        path = find_checkpoint(self._folder / name).path
        assert path is not None
        assert path.name == f"step-{STEPS:08d}"
        return {part: sha256_file(path / f"{part}.safetensors") for part in PARTS}

    def _recipe(self, workers: int) -> Path:
        document = {
            "title": "videos",
            "stage": "sft",
            "model": str(self._model),
            "init": str(self._model),
            "data": {
                "source": str(self._folder / "videos" / "stories.jsonl"),
                "held_out": 2,
                "variants": 0,
                "workers": workers,
            },
            # Videos have nine frames: a clip begins at any of five.
            "video": {"num_frames": 5, "height": 32, "width": 32},
            "num_scenes": 3,
            "objective": {"conditional_probability": 0.5},
            "steps": STEPS,
            "batch_size": 2,
            "accumulate": 2,
            "optimizer": {"name": "muon", "lr": 1e-3, "matrix_lr": 3e-3},
            "schedule": {"warmup_steps": 2},
            "checkpoint": {"every_steps": 2},
            "evaluation": {"every_steps": 4, "num_samples": 2},
        }
        path = self._folder / f"workers-{workers}.yaml"
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("trainings"))


@pytest.fixture(scope="module")
def straight(trainings: Trainings) -> dict[str, str]:
    """The run that nothing interrupts and nothing decodes ahead of."""
    trainings.run("straight", workers=0)
    return trainings.digests("straight")


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Stop]], list[Stop]]:
    """Return what arranges for stops, and tells which of them are still to come."""

    def arrange(stops: Sequence[Stop]) -> list[Stop]:
        ahead, make = list(stops), BatchMaker.make

        def make_or_stop(self: BatchMaker, draw: BatchDraw, *, step: int, first: int = 0) -> TrainingBatch:
            if self.purpose == "training noise" and ahead and ahead[0][1:] == (step, first):
                if ahead.pop(0).how == "death":
                    raise Died
                os.kill(os.getpid(), signal.SIGTERM)
            return make(self, draw, step=step, first=first)

        monkeypatch.setattr(BatchMaker, "make", make_or_stop)
        return ahead

    return arrange


def run_through(trainings: Trainings, name: str, ahead: list[Stop], *, workers: Sequence[int]) -> None:
    """Run until no stop is left; `workers` take turns."""
    for turn in range(len(ahead)):
        left = len(ahead)
        with pytest.raises(Interrupted if ahead[0].how == "signal" else Died, match=r"SIGTERM|^$"):
            trainings.run(name, workers=workers[turn % len(workers)])
        assert len(ahead) == left - 1
    trainings.run(name, workers=workers[-1])


@pytest.mark.long
def test_a_training_on_videos_with_workers_dies_within_a_step_and_ends_as_if_it_had_not(
    trainings: Trainings, straight: dict[str, str], stop_at: Callable[[Sequence[Stop]], list[Stop]]
) -> None:
    run_through(trainings, "died", stop_at([MID_ACCUMULATION]), workers=[2])
    assert trainings.digests("died") == straight


@pytest.mark.long
def test_workers_change_no_bit_of_a_training(trainings: Trainings, straight: dict[str, str]) -> None:
    trainings.run("with-workers", workers=2)
    assert trainings.digests("with-workers") == straight


@pytest.mark.long
@pytest.mark.parametrize("workers", [[0], [2], [2, 0]], ids=["alone", "workers", "in-turns"])
@pytest.mark.parametrize(
    "stops",
    [
        (MID_EPOCH,),
        (EPOCH_EDGE,),
        (MID_ACCUMULATION,),
        (EPOCH_EDGE, MID_ACCUMULATION),
        (MID_EPOCH, NEXT_EDGE),
        SEVEN,
    ],
    ids=["mid-epoch", "edge", "mid-accumulation", "edge-and-accumulation", "epoch-and-edge", "seven"],
)
def test_a_training_on_videos_ends_with_the_same_bits_however_often_it_stops(
    trainings: Trainings,
    straight: dict[str, str],
    stop_at: Callable[[Sequence[Stop]], list[Stop]],
    request: pytest.FixtureRequest,
    stops: tuple[Stop, ...],
    workers: list[int],
) -> None:
    name = request.node.callspec.id
    run_through(trainings, name, stop_at(stops), workers=workers)
    assert trainings.digests(name) == straight
