"""Runs that are killed or stopped at random moments lose nothing: the benchmark itself, cut short.

In a process of its own: it forks, which a process with threads must not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.kills import MODEL, STOP, TASKS, Tried
from benchmarks.stops import Stop
from tests.m2d.model.tiny_model import build_tiny_model

ROOT = Path(__file__).parents[2]


def kill(out: Path, *asked: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--out", str(out), *asked],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("kills", [1, pytest.param(100, marks=pytest.mark.long)])
def test_films_are_the_same_after_kills_at_random_moments(kills: int, tmp_path: Path) -> None:
    """Few with a tiny model, many with the embedded one, whose denoising takes most of a trial's time."""
    report = tmp_path / "kills.json"
    model = str(build_tiny_model(tmp_path / "model")) if kills < 100 else MODEL
    done = kill(report, "--kills", str(kills), "--stops", "0", "--model", model)
    assert report.exists(), done.stderr
    found = json.loads(report.read_text())
    assert found["is_complete"]
    tasks = found["tasks"]
    lost = [line for task in tasks.values() for line in task["all"] if "WRONG" in line]
    assert lost == []
    assert {name: task["kills"] for name, task in tasks.items()} == dict.fromkeys(TASKS, kills)
    assert done.returncode == 0


@pytest.mark.long
def test_commands_that_are_stopped_leave_a_run_that_gives_the_same_film(tmp_path: Path) -> None:
    """In two parts: what was tried before is not tried again."""
    report = tmp_path / "kills.json"
    asked = ("--kills", "0", "--stops", "8")
    assert kill(report, *asked, "--count", "3").returncode == 75
    first = json.loads(report.read_text())
    assert (first["is_complete"], first["signals"]["stops"]) == (False, 3)
    assert kill(report, *asked).returncode == 0
    found = json.loads(report.read_text())
    assert (found["is_complete"], found["nothing_lost"]) == (True, True)
    assert found["signals"]["all"][:3] == first["signals"]["all"]
    assert found["signals"]["codes"] == {"75": 8}
    assert found["signals"]["signals"] == {"SIGTERM": 4, "SIGINT": 4}
    assert not report.with_suffix(".part.jsonl").exists()


def test_what_other_trials_left_is_not_taken_for_these(tmp_path: Path) -> None:
    path = tmp_path / "kills.part.jsonl"
    stop = Stop(
        command="extend", sent="SIGINT", after_s=0.5, stage="denoise", code=75, too_late=1, wrong=("x",)
    )
    first = Tried(path=path, asked={"kills": 3})
    first.read()
    first.add(STOP, 4, stop)
    again = Tried(path=path, asked={"kills": 3})
    again.read()
    assert (again.stops, again.num_tried, again.wrong) == ({4: stop}, 1, 1)
    other = Tried(path=path, asked={"kills": 4})
    other.read()
    assert other.num_tried == 0
