"""Checkpoints of a training: complete or absent, verified before use, resumable to the bit.

Owns what a checkpoint holds and which one a resume takes; does not run steps. safetensors and JSON only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.training.folder import (
    canonical_json,
    publish_folder,
    remove_folder,
    verify_folder,
)
from m2d.training.optim import AveragedModel, ModelOptimizer

FOLDER = "checkpoints"
_STATE = "state.json"
_WEIGHTS, _EMA, _OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"


@dataclass(kw_only=True, slots=True)
class TrainState:
    """All that training changes.

    Attributes:
        model: The transformer being trained.
        average: Its running average.
        optimizer: Rates and moments.
        step: Steps done.
    """

    model: nn.Module
    average: AveragedModel
    optimizer: ModelOptimizer
    step: int = 0


class FoundCheckpoint(NamedTuple):
    """The newest checkpoint that verifies (None: there is none), and why newer ones were refused."""

    path: Path | None
    refused: tuple[str, ...]


def save_checkpoint(run: Path, state: TrainState, *, facts: Mapping[str, Any], keep: int) -> Path:
    """Publish a checkpoint of `state` below the run folder, then drop all but the newest `keep`.

    Args:
        run: The run folder.
        state: What to save.
        facts: JSON facts that a resume compares with its own, such as the recipe.
        keep: Checkpoints that stay; older ones go only after the new one is durable.
    """
    path = run / FOLDER / f"step-{state.step:08d}"
    with publish_folder(path, replace=True) as part:
        _save(state.model.state_dict(), part / _WEIGHTS)
        _save(state.average.model.state_dict(), part / _EMA)
        _save(state.optimizer.state_tensors(), part / _OPTIMIZER)
        (part / _STATE).write_text(canonical_json({"step": state.step, **facts}), encoding="ascii")
    # Later steps can only be damaged checkpoints that a resume refused: they must not push this one out.
    done = [other for other in _checkpoints(run) if other.name <= path.name]
    for old in done[keep:]:
        remove_folder(old)
    return path


def find_checkpoint(run: Path) -> FoundCheckpoint:
    """Find the newest checkpoint of a run whose every byte verifies."""
    refused = []
    for path in _checkpoints(run):
        try:
            verify_folder(path)
        except CheckpointError as error:
            refused.append(str(error))
        else:
            return FoundCheckpoint(path, tuple(refused))
    return FoundCheckpoint(None, tuple(refused))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a verified checkpoint, `step` among them."""
    facts: dict[str, Any] = json.loads((path / _STATE).read_text(encoding="ascii"))
    return facts


def load_average(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a verified checkpoint."""
    weights: dict[str, Tensor] = load_file(path / _EMA)
    return weights


def load_run_average(run: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a run's newest checkpoint that verifies.

    Raises:
        CheckpointError: There is none.
    """
    found = find_checkpoint(run).path
    if found is None:
        raise CheckpointError(f"{run}: no checkpoint that verifies; train it first")
    return load_average(found)


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Put `state` where a verified checkpoint left off.

    Raises:
        CheckpointError: The weights have other names or shapes than this model's.
    """
    try:
        state.model.load_state_dict(load_file(path / _WEIGHTS), strict=True)
        state.average.model.load_state_dict(load_file(path / _EMA), strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: made by another model: {reason}") from error
    state.optimizer.load_state_tensors(load_file(path / _OPTIMIZER))
    state.step = int(read_facts(path)["step"])


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Tied weights share memory, which safetensors refuses: each name gets its own copy.
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, path)


def _checkpoints(run: Path) -> list[Path]:
    """Return published checkpoints, newest first."""
    return sorted((run / FOLDER).glob("step-*"), reverse=True)


def versions() -> dict[str, str]:
    """Return what must stay the same for a resume to be identical to the bit."""
    return {"torch": torch.__version__, "num_threads": str(torch.get_num_threads())}
