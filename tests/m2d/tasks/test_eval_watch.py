"""Validation films of a training are evaluated once each, as they appear, until the training ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from m2d.errors import InputError
from m2d.evaluation.evaluate import EvalPlan
from m2d.lock import hold, is_held
from m2d.progress import SilentReporter
from m2d.tasks.eval_watch import METRICS, watch_training
from tests.m2d.evaluation.puppet_films import write_films

RECIPE = """\
title: watched
stage: sft
model: builtin:puppet
init: builtin:puppet
data: {source: "builtin:puppet", num_stories: 64, held_out: 8}
video: {num_frames: 9, height: 64, width: 64, fps: 8}
num_scenes: 3
mask: mask2dit
steps: 4
optimizer: {name: adamw, lr: 1.0e-3}
batch_size: 2
validation: {stories: [a.yaml, b.yaml], every_steps: 2}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "run"


def step_folder(run: Path, step: int, *, films: Path, count: int) -> None:
    folder = run / "validation" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shutil.copy(films / "films" / f"story-{number}.mp4", folder / f"story-{number}.mp4")


def test_steps_are_evaluated_when_all_their_films_are_there(run: Path, tmp_path: Path) -> None:
    write_films(tmp_path, seed=4, count=2)
    plan = EvalPlan(paths=(run,), prompts=tmp_path / "stories", out=tmp_path / "scores", embedder="none")
    step_folder(run, 2, films=tmp_path, count=2)
    looks = []

    with hold(run, what="training there"):
        assert is_held(run)

        def pause(_: float) -> None:
            """What the training does between two looks; the third time it is killed."""
            looks.append(len((tmp_path / "scores" / METRICS).read_text().splitlines()))
            if len(looks) == 1:
                step_folder(run, 4, films=tmp_path, count=1)
            elif len(looks) == 2:
                step_folder(run, 4, films=tmp_path, count=2)
            else:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch_training(plan, SilentReporter(), pause=pause)
    # One film of two is not a step.
    assert looks == [1, 1, 2]

    # Repeated after the training: nothing is evaluated twice, and what a killed training left counts.
    assert not is_held(run)
    step_folder(run, 6, films=tmp_path, count=1)
    rows = watch_training(plan, SilentReporter(), pause=pytest.fail)
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[0]["figures"]["smoothness"] == rows[1]["figures"]["smoothness"]
    assert rows[2]["figures"]["smoothness"]["count"] == 1
    assert [json.loads(line) for line in (tmp_path / "scores" / METRICS).read_text().splitlines()] == rows
    assert (tmp_path / "scores" / "step-00000004" / "index.html").is_file()
    assert list((tmp_path / "scores" / "trackers").rglob("events.*"))


def test_a_folder_without_validation_films_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    with pytest.raises(InputError, match=r"holds no recipe\.yaml"):
        watch_training(EvalPlan(paths=(tmp_path,), out=out), SilentReporter())
    (run / "recipe.yaml").write_text(RECIPE[: RECIPE.index("validation")])
    with pytest.raises(InputError, match="makes no validation films"):
        watch_training(EvalPlan(paths=(run,), out=out), SilentReporter())
    assert not out.exists()


@pytest.mark.parametrize("text", ["no JSON\n", '{"step": "two"}\n', "\udcff"])
def test_figures_of_another_form_are_refused(run: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "scores"
    out.mkdir()
    (out / METRICS).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(InputError, match="choose another folder"):
        watch_training(EvalPlan(paths=(run,), out=out), SilentReporter())
