"""What `kill -9` leaves: films whose making is killed at random moments, gone on with, and compared.

Run: `python -m benchmarks.kills [--kills N] [--stops N] [--count N] [--model NAME]`. Writes
`benchmarks/results/kills.json` as it goes, and fails when any film differs by a bit from the one of an
undisturbed run, when something broken ever had a film's name, or when anything is left over. What was tried
is in `kills.part.jsonl` beside it until all of it was: the same command goes on there, and `--count` ends it
after so many trials (exit code 75: there is more to do).

Every stage of a run gets its share of the kills, at a moment drawn evenly over the time it takes. Python is
killed alone, as the system does when memory runs out, or with its encoder. Some of the runs that go on are
killed again. `stops` are SIGTERM and Ctrl-C at random moments of the real commands: each has to leave a run
that can be resumed, with exit code 75.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.child import BEGIN, END, FINISH, Child
from benchmarks.small_films import CASES, STAGES, FilmState, Prepared, complete, prepare
from benchmarks.stops import Stop, prepare_stops, report_of_stops, stop_often
from m2d.errors import EXIT_RESUMABLE
from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "kills.json"
MODEL = "builtin:puppet"
TASKS = ("generate", "extend")
NUM_KILLS, NUM_STOPS = 100, 60
STOP = "stop"
SEED = 1109
SHARES: Mapping[str, int] = {
    BEGIN: 6,
    "load text encoder": 4,
    "encode prompts": 4,
    "load transformer": 4,
    "denoise": 32,
    "decode": 20,
    "write": 24,
    FINISH: 6,
}
"""Kills for each stage, of 100."""
AGAIN = 0.3
"""Share of the runs that go on which are killed, too."""
MOST_TRIES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One film whose making was killed, and what became of it.

    Attributes:
        case: The film.
        aimed_at: The stage that was to be hit.
        hit: The stage that was.
        after_s: Seconds since the stage that was aimed at had begun.
        with_encoder: Whether the encoder was killed, too.
        film: What was at the film's name then.
        num_runs: Runs it took to go on to the end; all but the last were killed, or found nothing to resume.
        said: What these runs said.
        too_late: Films that were complete before they could be killed, and were made again.
        wrong: What was not as it must be.
    """

    case: str
    aimed_at: str
    hit: str
    after_s: float
    with_encoder: bool
    film: FilmState
    num_runs: int
    said: tuple[str, ...]
    too_late: int
    wrong: tuple[str, ...]


class Shot(NamedTuple):
    """A process that was killed, how long after its stage had begun, and tries that came too late."""

    child: Child
    after_s: float
    too_late: int


def kill_and_go_on(prepared: Prepared, folder: Path, *, aim: str, draw: random.Random) -> Kill:
    """Kill the making of a film in stage `aim`, go on until it is complete, and look at what is there.

    Args:
        prepared: The film.
        folder: Made for this, and removed when all is as it must be.
        aim: The stage.
        draw: For the moment, who is killed, and which of the runs that go on are killed again.
    """
    with_encoder = draw.random() < 0.5
    shot = _kill(prepared, folder, aim=aim, with_encoder=with_encoder, draw=draw)
    film = prepared.film_state(folder)
    completion = complete(prepared, folder, disturb=lambda child: _kill_some(child, prepared, draw))
    wrong = list(completion.wrong)
    if shot.child.stage in ("decode", "write", FINISH) and "denoise" in completion.stages:
        wrong.append("what had been denoised was denoised again")
    if not wrong:
        shutil.rmtree(folder)
    return Kill(
        case=prepared.case.name,
        aimed_at=aim,
        hit=shot.child.stage,
        after_s=round(shot.after_s, 3),
        with_encoder=with_encoder,
        film=film,
        num_runs=completion.num_runs,
        said=tuple(completion.said),
        too_late=shot.too_late,
        wrong=tuple(wrong),
    )


def _kill(prepared: Prepared, folder: Path, *, aim: str, with_encoder: bool, draw: random.Random) -> Shot:
    for too_late in range(MOST_TRIES):
        prepared.fresh(folder)
        child = prepared.start(folder)
        after_s = draw.uniform(0, prepared.spans_s[aim])
        if child.wait_for(aim):
            time.sleep(after_s)
            child.kill(with_encoder=with_encoder)
        code = child.wait()
        if child.stage != END:
            if code != -signal.SIGKILL:
                raise RuntimeError(f"{prepared.case.name}: failed by itself with {code}: {child.complaint}")
            return Shot(child, after_s, too_late)
        shutil.rmtree(folder)
    raise RuntimeError(f"{prepared.case.name}: was complete {MOST_TRIES} times before it could be killed")


def _kill_some(child: Child, prepared: Prepared, draw: random.Random) -> None:
    if draw.random() < AGAIN:
        # What is left to do takes less than all of it: some of these come too late, and are none.
        time.sleep(draw.uniform(0, 0.5 * sum(prepared.spans_s.values())))
        child.kill(with_encoder=draw.random() < 0.5)


def aims(count: int) -> list[str]:
    """The stages to hit, each as often as its share of `count` kills."""
    places = [100 * (index + 0.5) / count for index in range(count)]
    ends = list(itertools.accumulate(SHARES.values()))
    return [list(SHARES)[bisect.bisect_right(ends, place)] for place in places]


def kill_often(
    cases: Sequence[Prepared],
    folder: Path,
    *,
    count: int,
    seed: int = SEED,
    numbers: Sequence[int] | None = None,
) -> Iterator[Kill]:
    """Kill `count` times, the cases taking turns.

    Args:
        cases: What is made.
        folder: For the films.
        count: Kills in all; every one of them has its stage and its moment.
        seed: Of all that is random.
        numbers: Only these of them.
    """
    task, stages = cases[0].case.task, aims(count)
    for number in range(count) if numbers is None else numbers:
        draw = random.Random(f"{seed} {task} {number}")
        aim, case = stages[number], draw.choice(cases)
        yield kill_and_go_on(case, folder / f"{task}-{number}", aim=aim, draw=draw)


def report_of(kills: Sequence[Kill]) -> dict[str, Any]:
    """Figures of one task's kills, and every kill in a line."""
    return {
        "kills": len(kills),
        "wrong": sum(bool(kill.wrong) for kill in kills),
        "hit": {stage: sum(kill.hit == stage for kill in kills) for stage in STAGES},
        "python_alone": sum(not kill.with_encoder for kill in kills),
        "film_after_the_kill": dict(sorted(Counter(kill.film for kill in kills).items())),
        "runs_that_went_on": sum(kill.num_runs for kill in kills),
        "came_too_late": sum(kill.too_late for kill in kills),
        "all": [_line(kill) for kill in kills],
    }


def _line(kill: Kill) -> str:
    who = "with encoder" if kill.with_encoder else "Python alone"
    wrong = "".join(f"; WRONG: {what}" for what in kill.wrong)
    return (
        f"{kill.case}: {kill.hit}, {kill.after_s:.3f} s into {kill.aimed_at}, {who}; film {kill.film}; "
        f"{kill.num_runs} more runs{wrong}"
    )


@dataclass(kw_only=True, slots=True)
class Tried:
    """What was tried so far, by its number; in a file, so that it can be gone on with.

    Attributes:
        path: A line of JSON for what was asked, then one for every trial.
        asked: All that the trials depend on.
        kills: Task to number to kill.
        stops: Number to stop.
    """

    path: Path
    asked: Mapping[str, Any]
    kills: dict[str, dict[int, Kill]] = field(default_factory=lambda: {task: {} for task in TASKS})
    stops: dict[int, Stop] = field(default_factory=dict)

    def read(self) -> None:
        """Take up what an earlier run of the same trials left, or begin."""
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
        """Take up one more."""
        if isinstance(found, Stop):
            self.stops[number] = found
        else:
            self.kills[what][number] = found
        with self.path.open("a") as file:
            file.write(f"{json.dumps([what, number, asdict(found)])}\n")

    @property
    def wrong(self) -> int:
        """Trials with losses."""
        kills = sum(bool(kill.wrong) for each in self.kills.values() for kill in each.values())
        return kills + sum(bool(stop.wrong) for stop in self.stops.values())

    @property
    def num_tried(self) -> int:
        """Trials so far."""
        return sum(map(len, self.kills.values())) + len(self.stops)


def try_all(
    tried: Tried, scratch: Path, *, words: argparse.Namespace, on_trial: Callable[[Mapping[str, Any]], object]
) -> None:
    """Try what was not tried yet, as much as was asked for.

    Args:
        tried: Grows.
        scratch: An empty folder.
        words: The command line's.
        on_trial: Is told after each how long undisturbed runs take.
    """
    left = words.count if words.count is not None else words.kills * len(TASKS) + words.stops
    missing = {
        task: [number for number in range(words.kills) if number not in tried.kills[task]] for task in TASKS
    }
    undisturbed: dict[str, Any] = {}
    if any(missing.values()):
        prepared = prepare(CASES, scratch, model=words.model)
        undisturbed |= {name: each.spans_s for name, each in prepared.items()}
        for task in TASKS:
            cases = [each for each in prepared.values() if each.case.task == task]
            numbers = missing[task][:left]
            left -= len(numbers)
            killed = kill_often(cases, scratch, count=words.kills, numbers=numbers)
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
    """Kill and stop, write the figures and tell whether nothing was lost."""
    words = _words(arguments)
    # Before anything is computed: threads do not survive a fork.
    torch.set_num_threads(1)
    asked = {"kills": words.kills, "stops": words.stops, "seed": SEED, "model": words.model}
    versions = {name: version(name) for name in ("m2d", "torch", "diffusers")}
    tried = Tried(path=words.out.with_suffix(".part.jsonl"), asked={**asked, "versions": versions})
    tried.read()
    total = words.kills * len(TASKS) + words.stops
    began_s = time.monotonic()

    def write(undisturbed: Mapping[str, Any]) -> None:
        report = {
            "what": "kill -9, SIGTERM and Ctrl-C at random moments, then going on; films and folders against "
            "undisturbed runs",
            "nothing_lost": not tried.wrong,
            "is_complete": tried.num_tried == total,
            "tasks": {task: report_of(_in_order(each)) for task, each in tried.kills.items()},
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
    told = f"{words.out}: {tried.num_tried} of {total} trials, {tried.wrong} with losses\n"
    sys.stdout.write(told)
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
    parser.add_argument("--kills", type=int, default=NUM_KILLS, help="for each of generate and extend")
    parser.add_argument("--stops", type=int, default=NUM_STOPS, help="signals to the real commands")
    parser.add_argument("--count", type=int, help="trials at most in this run; the next one goes on")
    parser.add_argument("--model", default=MODEL, help="a model's folder or name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def _in_order(found: Mapping[int, Any]) -> list[Any]:
    return [found[number] for number in sorted(found)]


if __name__ == "__main__":
    sys.exit(main())
