from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.recipe import OptimizerRecipe
from m2d.training.state import (
    FOLDER,
    TrainState,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)


def _state(step: int) -> TrainState:
    model = nn.Linear(2, 2)
    nn.init.constant_(model.weight, float(step))
    nn.init.constant_(model.bias, 0.0)
    optimizer = ModelOptimizer(model, OptimizerRecipe(name="adamw", lr=1e-3))
    return TrainState(model=model, average=AveragedModel(model, decay=0.9), optimizer=optimizer, step=step)


def _save(run: Path, step: int) -> Path:
    return save_checkpoint(run, _state(step), facts={"recipe": {}}, keep=2)


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / FOLDER).iterdir())


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _save(tmp_path, step)
    assert _names(tmp_path) == ["step-00000002", "step-00000003"]


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = _save(tmp_path, 7)
    state = _state(0)
    load_checkpoint(path, state)
    assert state.step == 7
    assert state.model.get_parameter("weight")[0, 0].item() == 7.0
    assert state.average.model.get_parameter("weight")[0, 0].item() == 7.0


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_one_flipped_byte_refuses_a_checkpoint_and_takes_the_one_before(
    tmp_path: Path, name: str, place: str
) -> None:
    _save(tmp_path, 1)
    damaged = _save(tmp_path, 2) / name
    data = bytearray(damaged.read_bytes())
    data[{"first": 0, "middle": len(data) // 2, "last": len(data) - 1}[place]] ^= 1
    damaged.write_bytes(data)
    found = find_checkpoint(tmp_path)
    assert found.path is not None
    assert found.path.name == "step-00000001"
    assert len(found.refused) == 1
    assert name in found.refused[0]


@pytest.mark.parametrize("damage", ["missing", "added"])
def test_a_missing_or_added_file_refuses_a_checkpoint(tmp_path: Path, damage: str) -> None:
    path = _save(tmp_path, 1)
    if damage == "missing":
        (path / "ema.safetensors").unlink()
    else:
        (path / "extra.bin").write_bytes(b"x")
    found = find_checkpoint(tmp_path)
    assert found.path is None
    assert "disagree with manifest.json" in found.refused[0]


def test_damaged_checkpoints_do_not_push_out_sound_ones(tmp_path: Path) -> None:
    for step in (1, 5, 6):
        save_checkpoint(tmp_path, _state(step), facts={}, keep=3)
    for step in (5, 6):
        (tmp_path / FOLDER / f"step-{step:08d}" / "state.json").write_text("{}")
    _save(tmp_path, 2)
    found = find_checkpoint(tmp_path)
    assert found.path is not None
    assert found.path.name == "step-00000002"
    assert len(found.refused) == 2
    assert "step-00000001" in _names(tmp_path)


_CALLS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (os, "open"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "rename"),
    (Path, "mkdir"),
    (Path, "rename"),
    (Path, "write_text"),
]


def _die_at(call: int) -> None:
    """Make the process vanish just before its `call`-th operation on the disk."""
    count = 0

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call:
                os._exit(9)
            return original(*args, **kwargs)

        return counted

    for owner, name in _CALLS:
        setattr(owner, name, wrap(getattr(owner, name)))


def _save_and_die(run: Path, step: int, call: int) -> bool:
    """Save in a child that dies at its `call`-th operation; tell whether it got that far."""
    child = os.fork()
    if child == 0:
        _die_at(call)
        _save(run, step)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == 9


def test_a_kill_at_any_operation_of_a_save_leaves_a_sound_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for step in (1, 2):
        _save(tmp_path / "start", step)
    call, died = 0, True
    while died:
        call += 1
        run = tmp_path / f"run-{call}"
        shutil.copytree(tmp_path / "start", run)
        died = _save_and_die(run, 3, call)
        found = find_checkpoint(run)
        assert found.path is not None
        assert found.path.name in ("step-00000002", "step-00000003")
        assert not found.refused
    assert call > 20
