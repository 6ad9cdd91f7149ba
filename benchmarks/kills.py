"""What `kill -9` leaves: films whose making is killed at random moments, gone on with, and compared.

Run: `python -m benchmarks.kills [--kills N] [--model NAME]`. Writes `benchmarks/results/kills.json` and fails
when any film differs by a bit from the one of an undisturbed run, when something broken ever had a film's
name, or when anything is left over.

Every stage of a run gets its share of the kills, at a moment drawn evenly over the time it takes. Python is
killed alone, as the system does when memory runs out, or with its encoder. Some of the runs that go on are
killed again.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.child import BEGIN, END, FINISH, Child
from benchmarks.small_films import CASES, STAGES, FilmState, Prepared, complete, prepare
from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "kills.json"
MODEL = "builtin:puppet"
TASKS = ("generate", "extend")
NUM_KILLS = 100
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


def kill_often(cases: Sequence[Prepared], folder: Path, *, count: int, seed: int = SEED) -> Iterator[Kill]:
    """Kill `count` times, the cases taking turns.

    Args:
        cases: What is made.
        folder: For the films.
        count: Kills.
        seed: Of all that is random.
    """
    task = cases[0].case.task
    for number, aim in enumerate(aims(count)):
        draw = random.Random(f"{seed} {task} {number}")
        yield kill_and_go_on(draw.choice(cases), folder / f"{task}-{number}", aim=aim, draw=draw)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill, write the figures and tell whether nothing was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=NUM_KILLS, help="for each of generate and extend")
    parser.add_argument("--model", default=MODEL, help="a model's folder or name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args(arguments)
    # Before anything is computed: threads do not survive a fork.
    torch.set_num_threads(1)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(CASES, Path(scratch), model=words.model)
        kills = {
            task: list(
                kill_often(
                    [each for each in prepared.values() if each.case.task == task],
                    Path(scratch),
                    count=words.kills,
                )
            )
            for task in TASKS
        }
    wrong = [kill for each in kills.values() for kill in each if kill.wrong]
    report = {
        "what": "kill -9 at random moments, then going on; films and folders against undisturbed runs",
        "nothing_lost": not wrong,
        "tasks": {task: report_of(each) for task, each in kills.items()},
        "undisturbed_s": {name: each.spans_s for name, each in prepared.items()},
        "seed": SEED,
        "model": Path(words.model).name,
        "spent_s": round(time.monotonic() - began_s),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers")},
        "python": platform.python_version(),
    }
    write_json(words.out, report)
    sys.stdout.write(f"{words.out}: {sum(map(len, kills.values()))} kills, {len(wrong)} with losses\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
