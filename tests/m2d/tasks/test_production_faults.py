"""Whatever happens to a production, and when: its film is the old one, none or the new one; nothing is lost.

The trials run in a process of their own: they fork, which a process with threads must not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
FEW = ("extend in place", "crash=2", "full=2", "full once=2", "broken=2", "signal=2", "race=2")
ALL = 100_000
MANY = (
    "generate,extend in place",
    f"crash={ALL}",
    f"full={ALL}",
    f"full once={ALL}",
    f"broken={ALL}",
    "signal=30",
    "race=2",
    "race=8",
)
FAULTS = ("crash", "full", "full once", "broken")
FILMS = {"generate": {"absent", "new"}, "extend in place": {"old", "new"}}
"""What may have the film's name after a failure."""


@pytest.fixture(scope="module", params=[FEW, pytest.param(MANY, marks=pytest.mark.long)], ids=["few", "all"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of all trials: what was tried to film to findings."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.m2d.tasks.trials", tmp_path_factory.mktemp("trials"), *request.param],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert tuple(found) == request.param[1:]
    return found


def findings(report: dict[str, Any], what: str) -> list[tuple[str, int, dict[str, Any]]]:
    """Film, number of trials and findings of each trial of this kind."""
    return [
        (film, int(word.partition("=")[2]), found)
        for word, films in report.items()
        if word.partition("=")[0] == what
        for film, found in films.items()
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_fails_at_any_operation_loses_nothing(report: dict[str, Any], fault: str) -> None:
    for film, num_trials, found in findings(report, fault):
        assert found["wrong"] == []
        assert len(found["tried"]) == min(num_trials, found["num_operations"])
        # Journal, film, run folder and the removal of the journal.
        assert found["num_operations"] > 100
        assert set(found["films"]) <= FILMS[film]


def test_a_crash_before_the_film_is_named_leaves_the_old_one_and_one_after_it_the_new_one(
    report: dict[str, Any],
) -> None:
    for film, _, found in findings(report, "crash"):
        assert set(found["films"]) == FILMS[film]


def test_a_signal_at_any_moment_leaves_a_run_that_is_finished_or_can_be_resumed(
    report: dict[str, Any],
) -> None:
    for _, num_trials, found in findings(report, "signal"):
        assert found["wrong"] == []
        assert sum(found["codes"].values()) == num_trials
        # Some come too late: how many, depends on what else the machine is doing.
        assert set(found["codes"]) <= {"0", "75", "-15", "130"}


def test_of_processes_that_make_one_film_one_does_and_the_others_are_told_who(report: dict[str, Any]) -> None:
    races = findings(report, "race")
    assert races
    for _, _, found in races:
        assert found["wrong"] == []
        assert found["num_winners"] == 1
