"""Trackers are told the log's numbers under plain names."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import PartialState

from m2d.errors import BackendUnavailable
from m2d.training import trackers
from m2d.training.trackers import FOLDER, Trackers


def test_tensorboard_is_told_every_number_of_an_event(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    PartialState()
    told = Trackers(
        ["tensorboard"], run=tmp_path, title="a run", config={"seed": 5, "optimizer": {"lr": 0.1}}
    )
    told.log("train", step=2, values={"loss": 0.5, "loss_by_timestep": [0.25, None], "note": "words"})
    told.log("train", step=4, values={"loss": 0.375})
    told.finish()

    events = EventAccumulator(str(tmp_path / FOLDER / "a run"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/loss_by_timestep.0"}
    assert [(each.step, each.value) for each in events.Scalars("train/loss")] == [(2, 0.5), (4, 0.375)]


def test_a_tracker_that_is_not_installed_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendUnavailable, match="the package wandb is not installed; pip install wandb"):
        Trackers(["wandb"], run=tmp_path, title="a run", config={})


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    told = Trackers([], run=tmp_path, title="a run", config={})
    told.log("train", step=1, values={"loss": 1.0})
    told.finish()
    assert list(tmp_path.iterdir()) == []
