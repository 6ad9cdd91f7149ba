"""Who is told what a training does: the seams for trackers, films on the way and the like.

Owns the two protocols; a training works without anybody watching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from m2d.training.state import TrainState


class LogObserver(Protocol):
    """Is told the figures of the log; in the main process alone."""

    def log(self, kind: str, *, step: int, values: Mapping[str, Any]) -> None:
        """Take in one event: `train` or `held-out`, after `step` steps."""

    def finish(self) -> None:
        """Write what is still held: the training has ended, whatever way."""


class StepObserver(Protocol):
    """Is shown the state after every step; in all processes, because they run a sharded model together."""

    def after_step(self, state: TrainState) -> None:
        """Look at the state, and leave it as it is."""
