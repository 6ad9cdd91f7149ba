"""Kills the making of films by `kill -9` at random moments, resumes it, and compares the results.

Owns the moments and the verdict on one task's films; `kills` decides how often they are killed.
"""

from __future__ import annotations

import bisect
import itertools
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.child import BEGIN, END, FINISH, Child
from benchmarks.small_films import STAGES, FilmState, Prepared, complete

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
"""Kills in each stage, out of 100."""
AGAIN = 0.3
"""Share of the resumed runs that are killed, too."""
MOST_TRIES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One killed run and its outcome.

    Attributes:
        case: The film.
        aimed_at: The stage in which to kill.
        hit: The stage in which it was killed.
        after_s: Seconds after the start of `aimed_at`.
        with_encoder: Whether the encoder was killed, too.
        film: The state of the film's file after the kill.
        num_runs: Runs until the end; all but the last were killed, or found nothing to resume.
        said: Messages of these runs.
        too_late: Earlier tries in which the film was complete before the kill.
        wrong: Faults.
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
    """A killed process, the seconds after the start of the stage, and the tries that came too late."""

    child: Child
    after_s: float
    too_late: int


def kill_and_resume(prepared: Prepared, folder: Path, *, aim: str, draw: random.Random) -> Kill:
    """Kill the making of a film in stage `aim`, resume until it is complete, and check the folder.

    Args:
        prepared: The film.
        folder: Created, and removed if there is no fault.
        aim: The stage.
        draw: Draws the moment, whether the encoder is killed, and which resumed runs are killed again.
    """
    with_encoder = draw.random() < 0.5
    shot = _kill(prepared, folder, aim=aim, with_encoder=with_encoder, draw=draw)
    film = prepared.film_state(folder)
    completion = complete(prepared, folder, disturb=lambda child: _kill_some(child, prepared, draw))
    wrong = list(completion.wrong)
    if shot.child.stage in ("decode", "write", FINISH) and "denoise" in completion.stages:
        wrong.append("finished denoising was repeated")
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
                raise RuntimeError(f"{prepared.case.name}: failed by itself with {code}: {child.error}")
            return Shot(child, after_s, too_late)
        shutil.rmtree(folder)
    raise RuntimeError(f"{prepared.case.name}: was complete {MOST_TRIES} times before it could be killed")


def _kill_some(child: Child, prepared: Prepared, draw: random.Random) -> None:
    if draw.random() < AGAIN:
        # A resumed run is shorter than a whole one, so some of these kills come too late.
        time.sleep(draw.uniform(0, 0.5 * sum(prepared.spans_s.values())))
        child.kill(with_encoder=draw.random() < 0.5)


def aims(count: int) -> list[str]:
    """Return the stages to hit, each as often as its share of `count` kills."""
    places = [100 * (index + 0.5) / count for index in range(count)]
    ends = list(itertools.accumulate(SHARES.values()))
    return [list(SHARES)[bisect.bisect_right(ends, place)] for place in places]


def kill_often(
    cases: Sequence[Prepared],
    folder: Path,
    *,
    count: int,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> Iterator[Kill]:
    """Kill `count` times, the cases taking turns.

    Args:
        cases: The films to make.
        folder: Folder for the films.
        count: Total number of kills; a kill's number determines its stage and moment.
        seed: Seed of all random draws.
        numbers: Do only these of them.
    """
    task, stages = cases[0].case.task, aims(count)
    for number in range(count) if numbers is None else numbers:
        draw = random.Random(f"{seed} {task} {number}")
        aim, case = stages[number], draw.choice(cases)
        yield kill_and_resume(case, folder / f"{task}-{number}", aim=aim, draw=draw)


def report_of(kills: Sequence[Kill]) -> dict[str, Any]:
    """Return the figures of one task's kills, and a line for every kill."""
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
