"""Resume from a checkpoint, after checking that it belongs to this training.

Owns the comparison of a checkpoint's facts with a run's; `state` owns the contents of a checkpoint.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError

from m2d.errors import CheckpointError, Remedy
from m2d.progress import Reporter
from m2d.training.optim import learning_rate_scale
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.recipe_parts import ScheduleRecipe
from m2d.training.state import TrainState, checkpoints_of, find_checkpoint, load_checkpoint, read_facts

# Recipe fields that a resumed run may change without changing a bit of the weights. Model folders are
# compared by content, not by path.
FREE_FIELDS = (
    "title",
    "model",
    "init",
    "transformer",
    # These decide how videos are decoded, not which frames; rejected videos stay rejected.
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
# Fields that a resumed run may change, with a warning if the weights are affected.
WARNED_FIELDS = ("steps", "schedule", "accumulate")
_LONGEST_VALUE = 200
# Versions that earlier runs did not record.
_EARLIER = {"num_processes": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Length:
    steps: int
    schedule: ScheduleRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class _Facts:
    """The facts of a checkpoint that a resume computes with; all are compared with the run's."""

    stories: str
    layout: str
    versions: Mapping[str, str]
    recipe: _Length


_FACTS = TypeAdapter(_Facts)


def versions(processes: Processes) -> dict[str, str]:
    """Return the versions and counts that a resume must share, besides the recipe, to be bit-identical."""
    return {
        "torch": torch.__version__,
        "num_threads": str(torch.get_num_threads()),
        "num_processes": str(processes.count),
    }


def newest_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint, which may be damaged.

    Raises:
        CheckpointError: There is none.
    """
    found = checkpoints_of(run)
    if not found:
        raise CheckpointError(
            f"{run}: nothing to resume, it has no checkpoint", remedy=Remedy.RESTART_TRAINING
        )
    return found[0]


def check_resumable(run: Path, recipe: TrainingRecipe) -> None:
    """Refuse to resume where a run has no checkpoint, or one of another recipe, before stories are encoded.

    Reads only the newest checkpoint's recipe: `resume_latest` verifies and compares all of it.

    Raises:
        CheckpointError: There is no checkpoint, or fields of the recipe differ.
    """
    newest = newest_checkpoint(run)
    try:
        saved = read_facts(newest)
    except CheckpointError:
        # An older checkpoint may verify.
        return
    if "recipe" in saved:
        _refuse_if(newest, _recipe_differences(saved["recipe"], recipe.model_dump(mode="json")))


def resume_latest(
    run: Path, state: TrainState, *, facts: Mapping[str, Any], processes: Processes, reporter: Reporter
) -> None:
    """Load the newest checkpoint that verifies into `state`; warn about those that do not.

    All processes call this together and see the run folder. `facts` are those that checkpoints of this
    training carry.

    Raises:
        CheckpointError: No checkpoint verifies, or it belongs to another training; the message names the
            differences.
    """
    # One process reads and verifies every byte for all.
    found = json.loads(processes.on_main(lambda: _find(run)))
    for rejected in found["rejected"]:
        reporter.warn(f"checkpoint rejected: {rejected}")
    path = Path(found["path"])
    saved = read_facts(path)
    try:
        _FACTS.validate_python(saved)
    except ValidationError as error:
        wrong = ", ".join(
            sorted({".".join(map(str, each["loc"]))[:_LONGEST_VALUE] for each in error.errors()})
        )
        raise CheckpointError(
            f"{path}: its state lacks {wrong}, or has other values there; resume from another checkpoint"
        ) from error
    _refuse_if(path, differences(saved, facts))
    for change in changes(saved, facts):
        reporter.warn(
            f"{change}: the weights will not be those of an uninterrupted run of this recipe to the last bit"
        )
    load_checkpoint(path, state)
    reporter.note(f"resuming after step {state.step} from {path}")


def differences(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Describe the differences that make these facts belong to another training than ours."""
    found = _recipe_differences(saved["recipe"], ours["recipe"])
    for part in ("transformer", "scheduler"):
        # Early checkpoints do not record the scheduler.
        if part in saved:
            found += map(str, _differing({part: saved[part]}, {part: ours.get(part)}))
    for part, of in (("stories", "clips, captions, VAE or text encoder"), ("layout", "sizes or mask")):
        if saved[part] != ours[part]:
            found.append(f"{part} was {saved[part][:12]} and is {ours[part][:12]} (other {of})")
    if saved.get("frozen") != ours.get("frozen"):
        found.append("the frozen weights that the adapters belong to differ (other init)")
    return found


def changes(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Describe allowed differences that change the weights: versions, microbatches, past learning rates."""
    old, new = _with_defaults(saved["recipe"]), ours["recipe"]
    found = [str(each) for each in _differing(old, new) if each.field == "accumulate"]
    first = _first_other_rate(old, new, num_steps=int(saved["step"]))
    if first is not None:
        fields = [str(each) for each in _differing(old, new) if _is_within(each.field, ("steps", "schedule"))]
        found.append(f"{', '.join(fields)}, which changes the learning rate of past step {first}")
    if _EARLIER | saved["versions"] != ours["versions"]:
        found.append(f"the checkpoint was made with {saved['versions']}, this is {ours['versions']}")
    return found


def _recipe_differences(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    differing = _differing(_with_defaults(saved), ours)
    return [str(each) for each in differing if not _is_within(each.field, FREE_FIELDS + WARNED_FIELDS)]


def _refuse_if(path: Path, differing: Sequence[str]) -> None:
    if differing:
        raise CheckpointError(f"{path}: made by another training: {'; '.join(differing)}")


class _Difference(NamedTuple):
    field: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field[:_LONGEST_VALUE]} was {_brief(self.was)} and is {_brief(self.now)}"


def _brief(value: Any) -> str:
    """Describe a value of a checkpoint, which may be long or deep."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = _LONGEST_VALUE
    return brief.repr(value)


def _is_within(field: str, fields: Sequence[str]) -> bool:
    return any(field == name or field.startswith(f"{name}.") for name in fields)


def _first_other_rate(old: Mapping[str, Any], new: Mapping[str, Any], *, num_steps: int) -> int | None:
    """Return the first past step whose learning rate the new recipe changes."""
    lengths, schedules = zip(
        *((recipe["steps"], ScheduleRecipe.model_validate(recipe["schedule"])) for recipe in (old, new)),
        strict=True,
    )
    if lengths[0] == lengths[1] and schedules[0] == schedules[1]:
        return None
    turns: set[int] = {0, *lengths}
    for length, schedule in zip(lengths, schedules, strict=True):
        turns |= {schedule.warmup_steps, length - math.floor(length * schedule.decay_fraction)}
    # Between two turns, rates are pieces of one line or one cosine: those that differ at all differ there.
    for step in sorted({turn + more for turn in turns for more in range(-1, 4)}):
        if not 0 <= step < num_steps:
            continue
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
        rejected = "".join(f"\nrejected: {why}" for why in found.rejected)
        raise CheckpointError(
            f"{run} has no checkpoint that verifies{rejected}", remedy=Remedy.RESTART_TRAINING
        )
    return json.dumps({"path": str(found.path), "rejected": found.rejected})


def _with_defaults(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in fields added since; a recipe that is no longer valid is compared as it is."""
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
