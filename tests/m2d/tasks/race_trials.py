"""Several processes that make one film at the same time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import Child, PipeReporter
from benchmarks.small_films import Prepared, make
from m2d.errors import EXIT_UNAVAILABLE
from m2d.film.make import RunOptions
from m2d.progress import StageProgress

HELD_IN = "denoise"


@dataclass(kw_only=True)
class Race:
    """How a race ended: who won, and what was not as it must be."""

    num_winners: int
    wrong: list[str]


class _Waiting(PipeReporter):
    """Waits in the midst of its run until it is told to go on."""

    def __init__(self, descriptor: int, go_on: int) -> None:
        super().__init__(descriptor)
        self._go_on = go_on

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        with super().stage(name, total=total) as progress:
            if name == HELD_IN:
                os.read(self._go_on, 1)
            yield progress


def race(prepared: Prepared, folder: Path, *, num_processes: int) -> Race:
    """Start so many processes on one film; the one that makes it waits until all others have ended."""
    prepared.fresh(folder)
    go_on, release = os.pipe()
    options = RunOptions(force=prepared.case.replaces)

    def work(reporter: PipeReporter) -> None:
        waiting = _Waiting(reporter.descriptor, go_on)
        make(prepared.case, folder, model=prepared.model, reporter=waiting, options=options)

    children = [Child(work) for _ in range(num_processes)]
    winners = [child for child in children if child.wait_for(HELD_IN)]
    # As many as there may be winners, or a wrong one would wait for ever.
    os.write(release, b"." * num_processes)
    codes = {child.pid: child.wait() for child in children}
    wrong = prepared.differences(folder)
    for child in children:
        told = f"process {winners[0].pid} on {socket.gethostname()} is making" if winners else "somebody"
        if child in winners:
            wrong += [f"the winner ended with {codes[child.pid]}"] if codes[child.pid] else []
        elif codes[child.pid] != EXIT_UNAVAILABLE or told not in child.error:
            wrong.append(f"a loser ended with {codes[child.pid]}: {child.error!r}")
    os.close(go_on)
    os.close(release)
    return Race(num_winners=len(winners), wrong=wrong)
