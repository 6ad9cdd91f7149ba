"""TensorBoard and Weights & Biases, through Accelerate's trackers.

Owns which figures they receive and under which names. Every run also has its own log, `m2d.training.log`.
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
    """Started trackers; only those of the main process write."""

    def __init__(
        self, names: Sequence[TrackerName], *, run: Path, title: str, config: Mapping[str, Any]
    ) -> None:
        """Start the trackers.

        Args:
            run: The run folder; local files go below it.
            config: The recipe and other JSON facts, stored once.

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
        """Send the numbers of one log event; list entries get an index each."""
        numbers = {
            f"{kind}/{name}": value
            for name, value in _flat(values).items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        for tracker in self._trackers:
            tracker.log(numbers, step=step)

    def finish(self) -> None:
        """Flush the trackers."""
        for tracker in self._trackers:
            tracker.finish()


def _start(name: TrackerName, *, run: Path, title: str) -> GeneralTracker:
    kind = LOGGER_TYPE_TO_CLASS[name]
    folder = run / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    tracker = kind(title, logging_dir=folder) if kind.requires_logging_directory else kind(title, dir=folder)
    # Accelerate up to 1.10 starts trackers in their constructor.
    if hasattr(tracker, "start"):
        tracker.start()
    return tracker


def _flat(values: Mapping[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings and lists; keys and list indices are joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        entries = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(entries, Mapping):
            flat |= _flat({str(name): entry for name, entry in entries.items()}, prefix=f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entries
    return flat
