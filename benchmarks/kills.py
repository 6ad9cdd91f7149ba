"""Kills and stops the making of films at random moments, resumes it, and compares the results.

Run: `python -m benchmarks.kills [--kills N] [--stops N] [--count N] [--model NAME]`. Writes
`benchmarks/results/kills.json` after every trial. It fails if a film differs by a bit from that of an
undisturbed run, if a broken file ever had a film's name, or if a file is left over. Finished trials are kept
in `kills.part.jsonl`, so that the same command resumes; `--count` ends it after so many trials with exit code
75.

Each stage of a run gets its share of the kills, at a uniformly drawn moment. Python is killed alone, as by
the system when memory runs out, or together with its encoder, and some resumed runs are killed again. `stops`
are SIGTERM and Ctrl-C at random moments of the real commands, which must end with exit code 75 and be
resumable.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.film_kills import Kill, kill_often, report_of
from benchmarks.small_films import CASES, Case, prepare
from benchmarks.stops import Stop, prepare_stops, report_of_stops, stop_often
from m2d.errors import EXIT_RESUMABLE
from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "kills.json"
MODEL = "builtin:puppet"
TASKS = ("generate", "extend", "reroll")
NUM_KILLS, NUM_STOPS = 100, 60
STOP = "stop"
SEED = 1109


@dataclass(kw_only=True, slots=True)
class Tried:
    """The finished trials by number, kept in a file so that the benchmark can be resumed.

    Attributes:
        path: A line of JSON with `asked`, then one for every trial.
        asked: All settings that the trials depend on.
        kills: Task to number to kill.
        stops: Number to stop.
    """

    path: Path
    asked: Mapping[str, Any]
    kills: dict[str, dict[int, Kill]] = field(default_factory=lambda: {task: {} for task in TASKS})
    stops: dict[int, Stop] = field(default_factory=dict)

    def read(self) -> None:
        """Read the trials of an earlier run with the same settings, or start a new file."""
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        if not lines or json.loads(lines[0]) != self.asked:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(f"{json.dumps(self.asked)}\n")
            return
        for line in lines[1:]:
            what, number, found = json.loads(line)
            found = {
                name: tuple(value) if isinstance(value, list) else value for name, value in found.items()
            }
            if what == STOP:
                self.stops[number] = Stop(**found)
            else:
                self.kills[what][number] = Kill(**found)

    def add(self, what: str, number: int, found: Kill | Stop) -> None:
        """Add one trial."""
        if isinstance(found, Stop):
            self.stops[number] = found
        else:
            self.kills[what][number] = found
        with self.path.open("a") as file:
            file.write(f"{json.dumps([what, number, asdict(found)])}\n")

    @property
    def wrong(self) -> int:
        """Return the number of trials with losses."""
        kills = sum(bool(kill.wrong) for each in self.kills.values() for kill in each.values())
        return kills + sum(bool(stop.wrong) for stop in self.stops.values())

    @property
    def num_tried(self) -> int:
        """Return the number of trials so far."""
        return sum(map(len, self.kills.values())) + len(self.stops)


def cases_of(tasks: Sequence[str]) -> tuple[Case, ...]:
    """Return the films of these tasks."""
    return tuple(case for case in CASES if case.task in tasks)


def try_all(
    tried: Tried, scratch: Path, *, words: argparse.Namespace, on_trial: Callable[[Mapping[str, Any]], object]
) -> None:
    """Run the missing trials, at most as many as requested.

    Args:
        tried: The finished trials; grows.
        scratch: An empty folder.
        words: The parsed command line.
        on_trial: Called after each trial with the seconds of undisturbed runs.
    """
    left = words.count if words.count is not None else words.kills * len(words.tasks) + words.stops
    missing = {
        task: [number for number in range(words.kills) if number not in tried.kills[task]]
        for task in words.tasks
    }
    undisturbed: dict[str, Any] = {}
    if any(missing.values()):
        prepared = prepare(cases_of(words.tasks), scratch, model=words.model)
        undisturbed |= {name: each.spans_s for name, each in prepared.items()}
        for task in words.tasks:
            cases = [each for each in prepared.values() if each.case.task == task]
            numbers = missing[task][:left]
            left -= len(numbers)
            killed = kill_often(cases, scratch, count=words.kills, seed=SEED, numbers=numbers)
            for number, kill in zip(numbers, killed, strict=True):
                tried.add(task, number, kill)
                on_trial(undisturbed)
    numbers = [number for number in range(words.stops) if number not in tried.stops][:left]
    if numbers:
        commands = prepare_stops(scratch / "stops", model=words.model)
        undisturbed |= {f"m2d {name}": round(each.span_s, 3) for name, each in commands.items()}
        stopped = stop_often(commands, scratch / "stops", numbers=numbers, seed=SEED)
        for number, stop in zip(numbers, stopped, strict=True):
            tried.add(STOP, number, stop)
            on_trial(undisturbed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill and stop, write the figures and report whether anything was lost."""
    words = _words(arguments)
    # Before any computation, because threads do not survive a fork.
    torch.set_num_threads(1)
    asked = {
        "kills": words.kills,
        "tasks": list(words.tasks),
        "stops": words.stops,
        "seed": SEED,
        "model": words.model,
    }
    versions = {name: version(name) for name in ("m2d", "torch", "diffusers")}
    tried = Tried(path=words.out.with_suffix(".part.jsonl"), asked={**asked, "versions": versions})
    tried.read()
    total = words.kills * len(words.tasks) + words.stops
    began_s = time.monotonic()

    def write(undisturbed: Mapping[str, Any]) -> None:
        report = {
            "what": "kill -9, SIGTERM and Ctrl-C at random moments, then resuming; films and folders against "
            "undisturbed runs",
            "nothing_lost": not tried.wrong,
            "is_complete": tried.num_tried == total,
            "tasks": {task: report_of(_in_order(each)) for task, each in tried.kills.items() if each},
            "signals": report_of_stops(_in_order(tried.stops)),
            "undisturbed_s": dict(undisturbed),
            "seed": SEED,
            "model": Path(words.model).name,
            "last_run_s": round(time.monotonic() - began_s),
            "machine": f"{platform.system()} {platform.machine()}",
            "versions": versions,
            "python": platform.python_version(),
        }
        write_json(words.out, report)

    with tempfile.TemporaryDirectory() as scratch:
        try_all(tried, Path(scratch), words=words, on_trial=write)
    sys.stdout.write(f"{words.out}: {tried.num_tried} of {total} trials, {tried.wrong} with losses\n")
    if tried.wrong:
        return 1
    if tried.num_tried < total:
        return EXIT_RESUMABLE
    tried.path.unlink()
    return 0


def _words(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=NUM_KILLS, help="for each task")
    parser.add_argument("--task", dest="tasks", action="append", choices=TASKS, help="only this; repeatable")
    parser.add_argument("--stops", type=int, default=NUM_STOPS, help="signals to the real commands")
    parser.add_argument("--count", type=int, help="at most this many trials; the next run continues")
    parser.add_argument("--model", default=MODEL, help="folder or name of the model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args(arguments)
    words.tasks = tuple(words.tasks or TASKS)
    return words


def _in_order(found: Mapping[int, Any]) -> list[Any]:
    return [found[number] for number in sorted(found)]


if __name__ == "__main__":
    sys.exit(main())
