"""A working folder with a tiny model and a story, and `m2d` to run in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from m2d.cli.main import app
from tests.m2d.model.tiny_model import build_tiny_model

STORY = """\
title: First snow
model: {model}
cast: {{Actor1: "round red body, wool cap", Actor2: "tall blue body, no hat"}}
setting: snowfield at dusk
scenes:
  - Actor1 walks right.
  - prompt: Actor2 waves.
    seed: 8
  - Actor1 jumps.
sampling: {{num_inference_steps: 2, guidance_scale: 3.0, seed: 7}}
video: {{upscale: 2}}
output: first-snow.mp4
"""

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: `story.yaml` in it, and nothing else."""
    (tmp_path / "story.yaml").write_text(STORY.format(model=tiny_folder))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def m2d(folder: Path) -> Run:
    """Run a command line in the working folder; stdout and stderr are apart."""
    del folder

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, list(words))

    return run
