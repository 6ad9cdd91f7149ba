"""Whole productions on a disk that fails at one chosen operation, and what can be made of what they leave."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.child import Child, PipeReporter
from benchmarks.small_films import Prepared, complete, make
from m2d.errors import EXIT_FAILED
from m2d.film.make import RunOptions
from m2d.progress import SilentReporter
from tests.m2d.faults import CRASHED, FaultyDisk, crash, refuse

FAULTS: dict[str, tuple[Callable[[], None], bool, str]] = {
    "crash": (crash, False, ""),
    "full": (refuse(errno.ENOSPC), True, os.strerror(errno.ENOSPC)),
    "full once": (refuse(errno.ENOSPC), False, os.strerror(errno.ENOSPC)),
    "broken": (refuse(errno.EIO), True, os.strerror(errno.EIO)),
}
"""What happens, whether it goes on happening, and the words that a user must find in the message."""


@dataclass(kw_only=True)
class Trials:
    """What became of all trials of one film.

    Attributes:
        num_operations: Disk operations of a run that nothing disturbs.
        tried: Those in whose place something happened.
        films: What had the film's name then, and how often.
        wrong: What was not as it must be.
    """

    num_operations: int
    tried: list[int]
    films: dict[str, int]
    wrong: list[str]


def count_operations(prepared: Prepared, folder: Path) -> int:
    """Disk operations of a run from its beginning to its end."""
    prepared.fresh(folder)
    disk = FaultyDisk()
    with pytest.MonkeyPatch.context() as patch:
        disk.install(patch)
        options = RunOptions(force=prepared.case.replaces)
        make(prepared.case, folder, model=prepared.model, reporter=SilentReporter(), options=options)
    return len(disk.done)


def picked(num_operations: int, num_trials: int) -> list[int]:
    """So many operations, evenly over all of them and with the last ones, from 1."""
    if num_trials >= num_operations:
        return list(range(1, num_operations + 1))
    return [1 + round(index * (num_operations - 1) / (num_trials - 1)) for index in range(num_trials)]


def start(prepared: Prepared, folder: Path, *, fault: str, at: int) -> Child:
    """Start making the film on a disk that fails."""
    happens, stays, _ = FAULTS[fault]

    def work(reporter: PipeReporter) -> None:
        options = RunOptions(force=prepared.case.replaces)
        with pytest.MonkeyPatch.context() as patch:
            FaultyDisk(at=at, fault=happens, stays=stays).install(patch)
            make(prepared.case, folder, model=prepared.model, reporter=reporter, options=options)

    return Child(work)


def complaints_of(child: Child, code: int, *, fault: str, film: str) -> list[str]:
    """What is wrong with how a run on such a disk ended."""
    if fault == "crash":
        return [] if code in (0, CRASHED) else [f"ended with {code}: {child.error}"]
    words = FAULTS[fault][2]
    if code == 0:
        # Only what is done when the film is complete may fail without the run failing.
        return [] if film == "new" else ["a run that failed says that it did not"]
    if code != EXIT_FAILED or words not in child.error or "\n" in child.error:
        return [f"ended with {code}: {child.error!r}"]
    return []


def try_all(prepared: Prepared, folder: Path, *, fault: str, num_trials: int) -> Trials:
    """Let the disk fail at each of the picked operations, and go on from what is left."""
    num_operations = count_operations(prepared, folder / "counted")
    films: Counter[str] = Counter()
    wrong = []
    tried = picked(num_operations, num_trials)
    for at in tried:
        own = prepared.fresh(folder / str(at))
        child = start(prepared, own, fault=fault, at=at)
        code = child.wait()
        film = prepared.film_state(own)
        films[film] += 1
        found = complaints_of(child, code, fault=fault, film=film) + complete(prepared, own).wrong
        wrong += [f"operation {at}: {each}" for each in found]
        if not found:
            shutil.rmtree(own)
    return Trials(num_operations=num_operations, tried=tried, films=dict(films), wrong=wrong)
