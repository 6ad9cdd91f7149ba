"""Stages of a run and how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from m2d.progress import Reporter, StageProgress


class Clock:
    """Runs stages under a reporter and keeps how long each took."""

    def __init__(self, reporter: Reporter) -> None:
        """Start with no stage."""
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
