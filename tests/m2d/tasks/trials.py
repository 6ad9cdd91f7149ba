"""Trials of whole productions, each in a process of its own that something happens to.

A program, `python -m tests.m2d.tasks.trials FOLDER FILM,FILM WHAT=NUMBER [WHAT=NUMBER ...]`, as it forks,
which a process with threads must not. WHAT is a fault of the disk, `signal` or `race`; what was found is
written to stdout as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.races import race
from benchmarks.small_films import CASES, Prepared, prepare
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.tasks.disk_trials import try_all
from tests.m2d.tasks.signal_trials import stop_often


def found(prepared: Prepared, folder: Path, what: str, number: int) -> dict[str, Any]:
    """Try one thing so many times; `folder` is made when something needs it."""
    if what == "race":
        return asdict(race(prepared, folder, num_processes=number))
    folder.mkdir(parents=True)
    if what == "signal":
        return asdict(stop_often(prepared, folder, num_trials=number))
    return asdict(try_all(prepared, folder, fault=what, num_trials=number))


def main(words: Sequence[str]) -> None:
    """Prepare, try, tell."""
    folder = Path(words[0])
    # Before anything is computed: threads do not survive a fork.
    torch.set_num_threads(1)
    model = build_tiny_model(folder / "tiny")
    films = folder / "films"
    films.mkdir()
    cases = tuple(case for case in CASES if case.name in words[1].split(","))
    prepared = prepare(cases, films, model=str(model))
    report: dict[str, dict[str, Any]] = {}
    for index, word in enumerate(words[2:]):
        what, _, number = word.partition("=")
        report[word] = {}
        for name, each in prepared.items():
            own = folder / f"{index} {name}"
            report[word][name] = found(each, own, what, int(number))
    sys.stdout.write(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
