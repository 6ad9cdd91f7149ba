"""Every command with streams that are closed, full or without a reader: its exit code, and no traceback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import rich.progress
import rich.table  # noqa: F401
import typer.main

# So that forked processes start at once.
from benchmarks.broken_videos import write_video
from m2d.cli.main import app
from tests.attack.guard import Ending, Guarded, Rooms
from tests.attack.originals import environment, prepare
from tests.attack.states import SILENT, STATES
from tests.m2d.model.tiny_model import build_tiny_model

# What ends at once: a result where that is quick, else a refusal.
LINES = {
    "init": "init new.yaml --force",
    "check": "check story.yaml",
    "generate": "generate nowhere.yaml",
    "extend": "extend nowhere.mp4 --prompt x",
    "reroll": "reroll nowhere.mp4 --scene 1",
    "reproduce": "reproduce nowhere.mp4",
    "inspect": "inspect clip.mp4",
    "board": "board nowhere.mp4",
    "verify": "verify nowhere.yaml",
    "bench": "bench nowhere.yaml",
    "doctor": "doctor",
    "train": "train nowhere.yaml",
    "eval": "eval clip.mp4 --embedder none --out report --force",
    "compare": "compare nowhere.yaml",
    "export": "export --backend onnx --recipe nowhere.yaml",
    "backends": "backends list",
    "data": "data show nowhere 0",
    "models": "models list",
    "puppet": "puppet pack --out packed --base nowhere",
}
REPORTS = ("check", "inspect", "doctor", "backends", "models")
"""Commands whose result is what they print."""
STORY = """\
title: A walk
model: {model}
cast: {{Actor1: "round red body, no hat"}}
setting: beach at dusk
scenes: [Actor1 walks right.]
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams") / "case"
    (folder / "cache").mkdir(parents=True)
    (folder / "story.yaml").write_text(STORY.format(model=build_tiny_model(folder / "model")))
    write_video(folder / "clip.mp4")
    return folder


def run(line: str, case: Path, state: str) -> Ending:
    rooms = Rooms(case=case, readable=(case.parent,))
    return Guarded(line.split(), rooms, environment(case / "cache"), state=STATES[state]).wait()


def test_every_command_has_a_line() -> None:
    assert set(typer.main.get_command(app).commands) == set(LINES)  # type: ignore[attr-defined]


QUICK = ("all streams are closed", "stdout is full")


@pytest.mark.parametrize("states", [QUICK, pytest.param(sorted(SILENT), marks=pytest.mark.long)])
@pytest.mark.parametrize("name", LINES)
def test_a_command_keeps_its_exit_code_whatever_becomes_of_its_streams(
    name: str, states: Sequence[str], case: Path
) -> None:
    code = 2 if "nowhere" in LINES[name] else 0
    # A refusal is the same line of code for every command.
    for state in states if code == 0 or states is not QUICK else QUICK[:1]:
        ending = run(LINES[name], case, state)
        is_lost = state == "stdout is full" and name in REPORTS
        assert ending.code == (1 if is_lost else code), (state, ending)
        assert "Traceback" not in ending.stdout + ending.stderr, (state, ending)


RESULTS = {
    "generate": ("generate story.yaml --out made.mp4", "made.mp4"),
    "extend": ("extend film.mp4 --prompt x --out longer.mp4 --model model", "longer.mp4"),
    "reroll": ("reroll film.mp4 --scene 1 --out other.mp4 --model model", "other.mp4"),
    "reproduce": ("reproduce film.mp4 --out again.mp4 --model model", "again.mp4"),
    "init": ("init made.yaml", "made.yaml"),
    "eval": ("eval film.mp4 --embedder none --out report", "report/results.json"),
    "compare": (
        "compare story.yaml --embedder none --methods mask2dit --out compared",
        "compared/comparison.json",
    ),
    "puppet": ("puppet film --minutes 0.1 --fps 2 --out filmed", "filmed/puppet-1-0.mp4"),
    "board": ("board film.mp4 --out board.html", "board.html"),
    "train": ("train training.yaml --out trained", "trained/model/model_index.json"),
    "data": ("data build films --out built --set relate.min_sim=-1", "built/data.json"),
    "export": ("export --backend onnx --recipe story.yaml --out exported", "exported"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("originals") / "originals")


@pytest.mark.long
@pytest.mark.parametrize("name", RESULTS)
@pytest.mark.parametrize(
    "state", ["all streams are closed", "stdout is full", "nobody reads stderr", "stderr is read for a line"]
)
def test_a_result_is_finished_without_a_reader(
    name: str, state: str, originals: Path, tmp_path: Path
) -> None:
    for path in originals.iterdir():
        (tmp_path / path.name).symlink_to(path)
    line, made = RESULTS[name]
    rooms = Rooms(case=tmp_path, readable=(originals,))
    ending = Guarded(line.split(), rooms, environment(originals / "cache"), state=STATES[state]).wait()
    assert (ending.code, "Traceback" in ending.stderr) == (0, False), ending
    assert (tmp_path / made).exists()
