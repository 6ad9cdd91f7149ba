"""Going on from a checkpoint: which one, whether it is this training's, and what differs when it is not.

Owns the comparison of a checkpoint's facts with a run's; what a checkpoint holds is `state`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from m2d.errors import CheckpointError, Remedy
from m2d.progress import Reporter
from m2d.training.optim import learning_rate_scale
from m2d.training.processes import Processes
from m2d.training.recipe import ScheduleRecipe, TrainingRecipe
from m2d.training.state import TrainState, find_checkpoint, load_checkpoint, read_facts

# Recipe fields, and parts of some, that decide nothing of what is learned: a resumed run may change them and
# ends with the same bits. What a model folder holds is compared by content, wherever it lies.
FREE_FIELDS = (
    "title",
    "model",
    "init",
    "transformer",
    # How videos are decoded, not which frames; what was rejected once stays rejected.
    "data.workers",
    "data.time_limit_s",
    "data.max_rejected",
    "gradient_checkpointing",
    "checkpoint",
    "evaluation",
    "validation",
    "trackers",
    "log_every_steps",
    "export_dtype",
)
# Fields that a resumed run may change on purpose and is told about where it matters: how long a training is,
# how it cools down, what fits into memory.
TOLD_FIELDS = ("steps", "schedule", "accumulate")
# What runs had that said nothing about it.
_EARLIER = {"num_processes": "1"}


def versions(processes: Processes) -> dict[str, str]:
    """Return what must stay the same, besides the recipe, for a resume to be identical to the bit."""
    return {
        "torch": torch.__version__,
        "num_threads": str(torch.get_num_threads()),
        "num_processes": str(processes.count),
    }


def resume_latest(
    run: Path, state: TrainState, *, facts: Mapping[str, Any], processes: Processes, reporter: Reporter
) -> None:
    """Put `state` where the newest checkpoint that verifies left off; name those that do not.

    Args:
        run: The run folder, which all processes see.
        state: A fresh state.
        facts: What a checkpoint of this training carries.
        processes: All of them, together.
        reporter: Is told what was refused and where the training goes on.

    Raises:
        CheckpointError: No checkpoint verifies, or it is another training's; what differs is named.
    """
    # One process reads every byte; the others take its word for it.
    said = json.loads(processes.on_main(lambda: _find(run)))
    for refused in said["refused"]:
        reporter.warn(f"checkpoint refused: {refused}")
    path = Path(said["path"])
    saved = read_facts(path)
    differing = differences(saved, facts)
    if differing:
        raise CheckpointError(f"{path}: made by another training: {'; '.join(differing)}")
    for change in changes(saved, facts):
        reporter.warn(
            f"{change}: the weights will not be those of an uninterrupted run of this recipe to the last bit"
        )
    load_checkpoint(path, state)
    reporter.note(f"going on after step {state.step} from {path}")


def differences(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Name what makes a checkpoint with these facts another training's than ours."""
    old, new = _with_defaults(saved["recipe"]), ours["recipe"]
    found = [
        str(each) for each in _differing(old, new) if not _is_within(each.field, FREE_FIELDS + TOLD_FIELDS)
    ]
    for part in ("transformer", "scheduler"):
        # Checkpoints from before the scheduler was written down say nothing of it.
        if part in saved:
            found += map(str, _differing({part: saved[part]}, {part: ours.get(part)}))
    for part, of in (("stories", "clips, captions, VAE or text encoder"), ("layout", "sizes or mask")):
        if saved[part] != ours[part]:
            found.append(f"{part} was {saved[part][:12]} and is {ours[part][:12]} (other {of})")
    if saved.get("frozen") != ours.get("frozen"):
        found.append("the frozen weights that the adapters belong to differ (other init)")
    return found


def changes(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Name what may differ, but shows in the weights: versions, microbatches, rates of steps done."""
    old, new = _with_defaults(saved["recipe"]), ours["recipe"]
    found = [str(each) for each in _differing(old, new) if each.field == "accumulate"]
    first = _first_other_rate(old, new, num_steps=int(saved["step"]))
    if first is not None:
        fields = [str(each) for each in _differing(old, new) if _is_within(each.field, ("steps", "schedule"))]
        found.append(
            f"{', '.join(fields)}, by which step {first} had another learning rate than it would now"
        )
    if _EARLIER | saved["versions"] != ours["versions"]:
        found.append(f"the checkpoint was made with {saved['versions']}, this is {ours['versions']}")
    return found


class _Difference(NamedTuple):
    field: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} was {self.was!r} and is {self.now!r}"


def _is_within(field: str, fields: Sequence[str]) -> bool:
    return any(field == name or field.startswith(f"{name}.") for name in fields)


def _first_other_rate(old: Mapping[str, Any], new: Mapping[str, Any], *, num_steps: int) -> int | None:
    """The first of the steps done whose learning rate the new recipe would have scaled otherwise."""
    lengths, schedules = zip(
        *((recipe["steps"], ScheduleRecipe.model_validate(recipe["schedule"])) for recipe in (old, new)),
        strict=True,
    )
    if lengths[0] == lengths[1] and schedules[0] == schedules[1]:
        return None
    for step in range(num_steps):
        was, now = (
            learning_rate_scale(schedule, step=step, num_steps=length)
            for schedule, length in zip(schedules, lengths, strict=True)
        )
        if was != now:
            return step
    return None


def _find(run: Path) -> str:
    found = find_checkpoint(run)
    if found.path is None:
        refused = "".join(f"\nrefused: {why}" for why in found.refused)
        raise CheckpointError(
            f"{run} has no checkpoint that verifies{refused}", remedy=Remedy.RESTART_TRAINING
        )
    return json.dumps({"path": str(found.path), "refused": found.refused})


def _with_defaults(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in fields that were added since; one that cannot be read any more differs as it stands."""
    try:
        return TrainingRecipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return dict(recipe)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[_Difference]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now, field = old.get(name), new.get(name), f"{prefix}{name}"
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += _differing(was, now, prefix=f"{field}.")
        elif was != now:
            found.append(_Difference(field, was, now))
    return found
