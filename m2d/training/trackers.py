"""Outside observers of a training: TensorBoard, Weights & Biases, through Accelerate's trackers.

Owns which figures they are told and under what names. The run has a log of its own in any case,
`m2d.training.log`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from m2d.errors import BackendUnavailable
from m2d.training.recipe import TrackerName

FOLDER = "trackers"
_INSTALL: Mapping[TrackerName, str] = {
    "tensorboard": "pip install 'm2d[train]'",
    "wandb": "pip install wandb",
}


class Trackers:
    """Started trackers; those of the main process alone write anything."""

    def __init__(
        self, names: Sequence[TrackerName], *, run: Path, title: str, config: Mapping[str, Any]
    ) -> None:
        """Start the trackers.

        Args:
            names: Which ones.
            run: The run folder; what is written locally goes below it.
            title: What the run is called.
            config: The recipe and other JSON facts, told once.

        Raises:
            BackendUnavailable: A tracker's package is not installed.
        """
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise BackendUnavailable(
                    f"trackers: the package {name} is not installed; {_INSTALL[name]}, or leave it out"
                )
        self._trackers = [_start(name, run=run, title=title) for name in names]
        for tracker in self._trackers:
            tracker.store_init_configuration(_flat(config))

    def log(self, kind: str, *, step: int, values: Mapping[str, Any]) -> None:
        """Tell one event of the log; lists get a number per entry, what is not a number is left out."""
        numbers = {
            f"{kind}/{name}": value
            for name, value in _flat(values).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Let them write what they still hold."""
        for tracker in self._trackers:
            tracker.finish()


def _start(name: TrackerName, *, run: Path, title: str) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tracker = kind(title, logging_dir=folder) if kind.requires_logging_directory else kind(title, dir=folder)
    # Accelerate up to 1.10 starts a tracker when it is made.
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def _flat(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Join nested names by dots and numbers of list entries to them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        entries = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(entries, Mapping):
            flat |= _flat({str(name): entry for name, entry in entries.items()}, prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entries
    return flat
