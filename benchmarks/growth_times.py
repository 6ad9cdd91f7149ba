"""The time of one more scene of a film: twelve in one run, and twelve commands of one scene."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.growing_films import NUM_JOINT, Films, prompt_of
from m2d.progress import Clock, SilentReporter, StageProgress
from m2d.puppet.story import Story

NUM_TIMED = 12


class Stopwatch(SilentReporter):
    """Records when every unit of the stages ended."""

    def __init__(self) -> None:
        self.moments_s: dict[str, list[float]] = {}

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Record the start of the stage, then the end of every unit."""
        del total
        moments_s = self.moments_s.setdefault(name, [])
        moments_s.append(time.perf_counter())

        class Units:
            def advance(self, amount: int = 1, *, detail: str = "") -> None:
                del amount, detail
                moments_s.append(time.perf_counter())

        yield Units()

    def unit_seconds(self, name: str) -> list[float]:
        """Return the seconds of each unit of a stage."""
        return [after - before for before, after in itertools.pairwise(self.moments_s[name])]


def measure_time(films: Films, story: Story, clock: Clock) -> dict[str, Any]:
    """Append twelve scenes to a film: in one run, and by twelve commands."""
    prompts = [prompt_of(story, number % len(story.scenes)) for number in range(NUM_TIMED)]
    # The imports and allocations of the first run are not the cost of a scene.
    films.extend(films.generate(story, num_scenes=NUM_JOINT, name="warm-up").film, prompts[0])
    with clock.stage("time, one run"):
        film = films.generate(story, num_scenes=NUM_JOINT, name="at-once").film
        watch = Stopwatch()
        films.extend(film, *prompts, reporter=watch)
        steps = watch.unit_seconds("denoise")
        # An earlier scene that a new one follows is decoded, too.
        decoded = watch.unit_seconds("decode")[-NUM_TIMED:]
        at_once = [
            sum(steps[number * films.steps : (number + 1) * films.steps]) + decoded[number]
            for number in range(NUM_TIMED)
        ]
    with clock.stage("time, a command each", total=NUM_TIMED) as progress:
        film = films.generate(story, num_scenes=NUM_JOINT, name="one-by-one").film
        # Files that the system reads from disk once are not the cost of a scene.
        run_command(films.generate(story, num_scenes=NUM_JOINT, name="warm-command").film, prompts[0], films)
        each = []
        for prompt in prompts:
            each.append(run_command(film, prompt, films))
            progress.advance()
    return {
        "one_run": {"seconds_per_scene": _rounded(at_once), "last_to_first": _growth(at_once)},
        "a_command_each": {"seconds_per_command": _rounded(each), "last_to_first": _growth(each)},
    }


def run_command(film: Path, prompt: str, films: Films) -> float:
    """Append a scene in place with `m2d extend` in a new process, and return the seconds it took.

    Raises:
        RuntimeError: The command failed.
    """
    asked = ["--prompt", prompt, "--model", films.source.name, "--out", str(film), "--force", "--quiet"]
    began_s = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "m2d", "extend", str(film), *asked],
        capture_output=True,
        text=True,
        check=False,
    )
    spent_s = time.perf_counter() - began_s
    if ended.returncode:
        raise RuntimeError(f"m2d extend failed with {ended.returncode}: {ended.stderr.strip()}")
    return spent_s


def _growth(seconds: Sequence[float]) -> float:
    """Return the median of the last quarter over that of the first."""
    quarter = len(seconds) // 4
    return round(statistics.median(seconds[-quarter:]) / statistics.median(seconds[:quarter]), 4)


def _rounded(seconds: Sequence[float]) -> list[float]:
    return [round(each, 3) for each in seconds]
