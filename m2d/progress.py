"""The Reporter protocol through which long work reports progress; it owns no output format.

`m2d/cli/console.py` implements it with rich. Library users may pass `SilentReporter()` or their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from m2d.errors import Remedy


class StageProgress(Protocol):
    """How far one stage is; handed out by `Reporter.stage`."""

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        """Record `amount` finished units; `detail` is a short plain text such as `loss 0.061`."""


class Reporter(Protocol):
    """Receives what a task is doing. All text is plain: implementations escape markup and control codes."""

    def stage(self, name: str, *, total: int | None = None) -> AbstractContextManager[StageProgress]:
        """Enter the stage `name` of `total` units (None: unknown); leaving the context ends it."""

    def note(self, message: str) -> None:
        """Report something worth knowing that asks for no action."""

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        """Report something the user probably wants to change; `remedy` says how, where that takes a flag."""


class _SilentStage:
    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        del amount, detail


class SilentReporter:
    """A Reporter without output."""

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        del name, total
        yield _SilentStage()

    def note(self, message: str) -> None:
        """Drop the note."""

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        """Drop the warning."""


class Clock:
    """Runs stages under a reporter and keeps how long each took."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.timings_s: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Run one stage; a second one of the same name adds to the first's time."""
        began_s = time.perf_counter()
        with self.reporter.stage(name, total=total) as progress:
            yield progress
        spent_s = time.perf_counter() - began_s
        self.timings_s[name] = round(self.timings_s.get(name, 0.0) + spent_s, 3)
