"""Runs killed at random moments lose nothing: the benchmark itself, with as many kills as there is time for.

In a process of its own: it forks, which a process with threads must not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.long)])
def test_films_are_the_same_after_kills_at_random_moments(kills: int, tmp_path: Path) -> None:
    report = tmp_path / "kills.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.kills", "--kills", str(kills), "--out", str(report)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    assert report.exists(), done.stderr
    tasks = json.loads(report.read_text())["tasks"]
    lost = [line for task in tasks.values() for line in task["all"] if "WRONG" in line]
    assert lost == []
    assert {name: task["kills"] for name, task in tasks.items()} == {"extend": kills, "generate": kills}
    assert done.returncode == 0
