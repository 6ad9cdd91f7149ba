"""Going on from a checkpoint: which one, whether it is this training's, and what differs when it is not.

Owns the comparison of a checkpoint's facts with a run's; what a checkpoint holds is `state`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from m2d.errors import CheckpointError
from m2d.progress import Reporter
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.state import TrainState, find_checkpoint, load_checkpoint, read_facts

# Recipe fields that a resumed run may change: how long, how often, what it is called, where the weights once
# came from, what fits into memory. What is learned from a sample does not depend on them.
FREE_FIELDS = (
    "title",
    "model",
    "init",
    "transformer",
    "steps",
    "accumulate",
    "gradient_checkpointing",
    "schedule",
    "checkpoint",
    "evaluation",
    "validation",
    "trackers",
    "log_every_steps",
    "export_dtype",
)
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
    if _EARLIER | saved["versions"] != facts["versions"]:
        reporter.warn(
            f"the checkpoint was made with {saved['versions']}, this is {facts['versions']}: the weights "
            "will not be those of an uninterrupted run to the last bit"
        )
    load_checkpoint(path, state)
    reporter.note(f"going on after step {state.step} from {path}")


def differences(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Name what differs between a checkpoint's facts and ours, other than the recipe's free fields."""
    old, new = (
        {field: value for field, value in recipe.items() if field not in FREE_FIELDS}
        for recipe in (_with_defaults(saved["recipe"]), ours["recipe"])
    )
    found = _differing(old, new)
    found += _differing({"transformer": saved["transformer"]}, {"transformer": ours["transformer"]})
    for part, of in (("stories", "clips, captions, codec or text encoder"), ("layout", "sizes or mask")):
        if saved[part] != ours[part]:
            found.append(f"{part} was {saved[part][:12]} and is {ours[part][:12]} (other {of})")
    if saved.get("frozen") != ours.get("frozen"):
        found.append("the frozen weights that the adapters belong to differ (other init)")
    return found


def _find(run: Path) -> str:
    found = find_checkpoint(run)
    if found.path is None:
        refused = "".join(f"\nrefused: {why}" for why in found.refused)
        raise CheckpointError(
            f"--resume latest: {run} has no checkpoint that verifies; start anew without --resume{refused}"
        )
    return json.dumps({"path": str(found.path), "refused": found.refused})


def _with_defaults(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in fields that were added since; one that cannot be read any more differs as it stands."""
    try:
        return TrainingRecipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return dict(recipe)


def _differing(old: Mapping[str, Any], new: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    found = []
    for name in sorted(old.keys() | new.keys()):
        was, now, field = old.get(name), new.get(name), f"{prefix}{name}"
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found += _differing(was, now, prefix=f"{field}.")
        elif was != now:
            found.append(f"{field} was {was!r} and is {now!r}")
    return found
