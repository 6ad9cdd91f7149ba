"""Checkpoints of a training: complete or absent, verified before use, bit-identical when resumed.

Owns the contents of a checkpoint and the choice of the one to resume. safetensors and JSON only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.files import write_part
from m2d.folders import make_folder
from m2d.model.checkpoint import load_tensors
from m2d.model.components import check_config
from m2d.reading import parse_json, read_text
from m2d.saved_tensors import misfit
from m2d.tensor_files import opened_tensors
from m2d.training.folder import canonical_json, publish_folder, remove_folder, verify_folder
from m2d.training.optim import AveragedModel, Optimizer
from m2d.training.processes import ALONE, Processes
from m2d.training.sharding import Stored, outline, put, stored, wholes
from m2d.training.tensor_file import write_tensors
from m2d.training.unprompted_heads import UnpromptedHeads

FOLDER = "checkpoints"
_STATE = "state.json"
_LONGEST_STATE_BYTES = 16 << 20
_WEIGHTS, _EMA, _OPTIMIZER = "weights.safetensors", "ema.safetensors", "optimizer.safetensors"
_HEADS, _HEADS_OPTIMIZER = "heads.safetensors", "heads-optimizer.safetensors"


@dataclass(kw_only=True, slots=True)
class TrainState:
    """Everything that training changes.

    Attributes:
        heads: Those of `objective.unprompted_weight`; None without it.
        step: Number of finished steps.
    """

    model: nn.Module
    average: AveragedModel
    optimizer: Optimizer
    heads: UnpromptedHeads | None = None
    step: int = 0


class FoundCheckpoint(NamedTuple):
    """The newest checkpoint that verifies, or None, and why newer ones were rejected."""

    path: Path | None
    rejected: tuple[str, ...]


def save_checkpoint(
    run: Path, state: TrainState, *, facts: Mapping[str, Any], keep: int, processes: Processes = ALONE
) -> Path:
    """Publish a checkpoint of `state` below the run folder, then drop all but the newest `keep`.

    All processes call this together: the main process gathers and writes one whole tensor after the other. An
    existing checkpoint of this step that verifies is kept.

    Args:
        facts: JSON facts that a resume compares with its own, such as the recipe.
        keep: Number of checkpoints to keep; older ones are removed after the new one is durable.

    Raises:
        OutputError: The disk refused; all older checkpoints remain.
    """
    path = run / FOLDER / _name_of(state.step)
    files = {
        _WEIGHTS: _in_order(_kept(state.model, of=state.model)),
        _EMA: _in_order(_kept(state.average.model, of=state.model)),
        _OPTIMIZER: _in_order(state.optimizer.state_tensors()),
    }
    if state.heads is not None:
        files[_HEADS] = _in_order(stored(state.heads.module))
        files[_HEADS_OPTIMIZER] = _in_order(state.heads.optimizer.state_tensors())
    values = wholes(tensor for tensors in files.values() for tensor in tensors.values())

    def write() -> str:
        try:
            if not _is_sound(path):
                _publish(path, files, values, {"step": state.step, **facts})
            # Checkpoints of later steps are corrupt ones that a resume rejected; they must not displace this.
            for old in [other for other in checkpoints_of(run) if other.name <= path.name][keep:]:
                remove_folder(old)
        finally:
            # The other processes wait until their shards are gathered, even when this one has failed.
            deque(values, maxlen=0)
        return str(path)

    return Path(processes.on_main(write, meanwhile=lambda: deque(values, maxlen=0)))


def _kept(model: nn.Module, *, of: nn.Module) -> dict[str, Stored]:
    """Return a model's tensors without the weights that are frozen in `of`; a resume reads those again."""
    frozen = {name for name, weight in of.named_parameters() if not weight.requires_grad}
    return {name: tensor for name, tensor in stored(model).items() if name not in frozen}


def _publish(
    path: Path, files: Mapping[str, Mapping[str, Stored]], values: Iterator[Tensor], facts: Mapping[str, Any]
) -> None:
    make_folder(path.parent)
    with publish_folder(path, replace=True) as part:
        for name, tensors in files.items():
            outlines = {key: outline(tensor) for key, tensor in tensors.items()}
            write_tensors(part / name, outlines, islice(values, len(tensors)))
        write_part(part / _STATE, canonical_json(dict(facts)).encode("ascii"))


def _is_sound(path: Path) -> bool:
    try:
        verify_folder(path)
    except CheckpointError:
        return False
    return True


def _in_order(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """Sort tensors by element size, then name: large elements first keep all aligned."""
    return dict(sorted(tensors.items(), key=lambda item: (-outline(item[1]).element_size(), item[0])))


def find_checkpoint(run: Path) -> FoundCheckpoint:
    """Find the newest checkpoint of a run whose every byte verifies."""
    rejected = []
    for path in checkpoints_of(run):
        try:
            verify_folder(path)
        except CheckpointError as error:
            rejected.append(str(error))
        else:
            return FoundCheckpoint(path, tuple(rejected))
    return FoundCheckpoint(None, tuple(rejected))


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts of a verified checkpoint, `step` among them.

    Raises:
        CheckpointError: They are not those of a training.
    """
    try:
        facts = parse_json(read_text(path / _STATE, limit_bytes=_LONGEST_STATE_BYTES, encoding="ascii"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / _STATE}: cannot be read: {error}") from error
    if not isinstance(facts, dict):
        raise CheckpointError(f"{path / _STATE}: is no table of facts")
    # Parts of the embedded model are trained without a recipe of the transformer's kind.
    wanted = {"step": int, **({"recipe": dict} if "recipe" in facts else {})}
    wrong = [name for name, kind in wanted.items() if type(facts.get(name)) is not kind]
    if wrong:
        raise CheckpointError(f"{path / _STATE}: {', '.join(wrong)} missing or of another type")
    if path.name != _name_of(facts["step"]):
        raise CheckpointError(f"{path / _STATE}: is of another step than its folder is named for")
    if facts.get("transformer") is not None:
        check_config(path / _STATE, "transformer", facts["transformer"])
    return facts


def load_average(path: Path) -> dict[str, Tensor]:
    """Return the averaged weights of a verified checkpoint.

    Raises:
        CheckpointError: Some are NaN or infinite.
    """
    weights: dict[str, Tensor] = load_tensors(path / _EMA)
    for name, tensor in weights.items():
        _refuse(path / _EMA, name, misfit(tensor, dtype=tensor.dtype, shape=tensor.shape))
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
    """Load a verified checkpoint into `state`.

    Raises:
        CheckpointError: The weights have other names or shapes than this model's.
    """
    _load_into(_kept(state.model, of=state.model), path / _WEIGHTS)
    _load_into(_kept(state.average.model, of=state.model), path / _EMA)
    _load_optimizer(state.optimizer, path / _OPTIMIZER)
    if state.heads is not None:
        _load_into(stored(state.heads.module), path / _HEADS)
        _load_optimizer(state.heads.optimizer, path / _HEADS_OPTIMIZER)
    state.step = int(read_facts(path)["step"])


def _load_optimizer(optimizer: Optimizer, path: Path) -> None:
    with opened_tensors(path, "pt") as file:
        optimizer.load_state_tensors((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118


def _load_into(targets: Mapping[str, Stored], path: Path) -> None:
    """Copy a file's tensors into a model, one at a time; each process keeps its own shards."""
    with opened_tensors(path, "pt") as file:
        saved = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        ours = {name: tuple(outline(tensor).shape) for name, tensor in targets.items()}
        differing = [
            f"{name} was {saved.get(name, 'missing')} and is {ours.get(name, 'missing')}"
            for name in sorted(saved.keys() | ours.keys())
            if saved.get(name) != ours.get(name)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise CheckpointError(f"{path}: made by another model: {'; '.join(differing[:3])}{more}")
        for name, target in targets.items():
            value, ours_like = file.get_tensor(name), outline(target)
            _refuse(path, name, misfit(value, dtype=ours_like.dtype, shape=ours_like.shape))
            put(value, target)


def _refuse(path: Path, name: str, problem: str) -> None:
    if problem:
        raise CheckpointError(f"{path}: {name} {problem}; resume from another checkpoint")


def _name_of(step: int) -> str:
    return f"step-{step:08d}"


def checkpoints_of(run: Path) -> list[Path]:
    """Return published checkpoints, newest first."""
    return sorted((run / FOLDER).glob("step-*"), reverse=True)
