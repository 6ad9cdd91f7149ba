"""Lets several processes make one film at the same time: one does, the others are refused and say why.

Run: `python -m benchmarks.races [--races N] [--resume]`. Writes `benchmarks/results/races.json` after every
race; fails if a race has no winner or several, if the film differs from that of a single run, or if a file is
left over. `--resume` adds to the races that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.child import Child, PipeReporter
from benchmarks.small_films import CASES, Prepared, make, prepare
from m2d.errors import EXIT_UNAVAILABLE
from m2d.files import write_json
from m2d.film.make import RunOptions
from m2d.progress import StageProgress

RESULTS = Path(__file__).parent / "results" / "races.json"
NUM_RACES = 300
SEED = 517
MOST_PROCESSES = 8
HELD_IN = "denoise"


@dataclass(kw_only=True)
class Race:
    """How a race ended: the number of winners, and faults."""

    num_winners: int
    wrong: list[str]


class _Waiting(PipeReporter):
    """Waits in the middle of its run until it is released."""

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
    """Start so many processes on one film; the one that makes it waits until all others are refused."""
    prepared.fresh(folder)
    go_on, release = os.pipe()
    options = RunOptions(force=prepared.case.replaces)

    def work(reporter: PipeReporter) -> None:
        waiting = _Waiting(reporter.descriptor, go_on)
        make(prepared.case, folder, model=prepared.model, reporter=waiting, options=options)

    children = [Child(work) for _ in range(num_processes)]
    winners = [child for child in children if child.wait_for(HELD_IN)]
    # As many as there may be winners: a second one would wait forever.
    os.write(release, b"." * num_processes)
    codes = {child.pid: child.wait() for child in children}
    wrong = prepared.differences(folder)
    for child in children:
        owner = f"process {winners[0].pid} on {socket.gethostname()} is making" if winners else "no owner"
        if child in winners:
            wrong += [f"the winner ended with {codes[child.pid]}"] if codes[child.pid] else []
        elif codes[child.pid] != EXIT_UNAVAILABLE or owner not in child.error:
            wrong.append(f"a loser ended with {codes[child.pid]}: {child.error!r}")
    os.close(go_on)
    os.close(release)
    return Race(num_winners=len(winners), wrong=wrong)


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, write the figures after each race, and exit with 1 if something is lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--races", type=int, default=NUM_RACES)
    parser.add_argument("--model", default="builtin:puppet")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--resume", action="store_true", help="keep the races of an earlier run")
    words = parser.parse_args(arguments)
    earlier: dict[str, Any] = {"races": 0, "films": {}, "processes": {}, "wrong": []}
    if words.resume:
        earlier = json.loads(words.out.read_text())
    # Before any computation, because threads do not survive a fork.
    torch.set_num_threads(1)
    draw, films = random.Random(SEED), Counter[str](earlier["films"])
    sizes = Counter({int(size): count for size, count in earlier["processes"].items()})
    wrong: list[str] = list(earlier["wrong"])
    with tempfile.TemporaryDirectory() as folder:
        prepared = list(prepare(CASES, Path(folder), model=words.model).values())
        for number in range(words.races):
            case, num_processes = prepared[number % len(prepared)], draw.randint(2, MOST_PROCESSES)
            if number < earlier["races"]:
                continue
            found = race(case, Path(folder) / f"race-{number}", num_processes=num_processes)
            faults = found.wrong + ([] if found.num_winners == 1 else [f"{found.num_winners} winners"])
            wrong += [f"race {number}, {case.case.name}: {fault}" for fault in faults]
            films[case.case.name] += 1
            sizes[num_processes] += 1
            report = {
                "what": "processes that make one film at the same time",
                "races": number + 1,
                "wrong": wrong,
                "films": dict(sorted(films.items())),
                "processes": {str(size): sizes[size] for size in sorted(sizes)},
                "seed": SEED,
                "machine": f"{platform.system()} {platform.machine()}",
            }
            write_json(words.out, report)
    sys.stdout.write(f"{words.out}: {words.races} races, {len(wrong)} faults\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
