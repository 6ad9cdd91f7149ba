"""`m2d inspect`: films of ours and of others, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from m2d.video.write import write_film
from tests.m2d.cli.conftest import Run


@pytest.fixture
def film(m2d: Run, folder: Path) -> Path:
    assert m2d("generate", "story.yaml", "--steps", "1").exit_code == 0
    return folder / "first-snow.mp4"


def test_origin_prompts_and_digests_are_shown_and_latents_checked(m2d: Run, film: Path) -> None:
    shown = m2d("inspect", "first-snow.mp4").stdout
    assert "all 27 frames decode; provenance intact" in shown
    assert "prompt  Snowfield at dusk. Actor2 (tall blue body, no hat) waves." in shown
    assert "seed    8" in shown
    assert "beside the film, and those it was decoded from" in shown

    told = json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)
    assert told["provenance"]["frames_sha256"]
    assert told["latents"] == {"state": "present", "problem": ""}
    assert [chapter["title"][:2] for chapter in told["chapters"]] == ["1.", "2.", "3."]

    latents = film.with_suffix(".m2d") / "latents.safetensors"
    latents.write_bytes(latents.read_bytes()[:-1])
    assert json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)["latents"]["state"] == "unusable"


def test_a_run_folder_of_another_film_is_not_believed(m2d: Run, film: Path) -> None:
    assert m2d("generate", "story.yaml", "--seed", "5", "--out", "other.mp4").exit_code == 0
    film.write_bytes((film.parent / "other.mp4").read_bytes())
    told = json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)
    assert told["latents"]["state"] == "unusable"
    assert "belongs to another run" in told["latents"]["problem"]


def test_somebody_elses_film_has_no_origin_but_frames(m2d: Run, folder: Path) -> None:
    frames_PHWC = np.zeros((5, 32, 32, 3), np.uint8)
    arguments = {"fps": 8, "upscale": 1, "provenance": None, "force": False}
    write_film(folder / "x.mp4", [frames_PHWC], title="[/] theirs", scene_prompts=["[link=x]"], **arguments)
    result = m2d("inspect", "x.mp4")
    assert result.exit_code == 0
    assert "5 frames" in result.stdout
    assert "[link=x]" in result.stdout
    assert "unknown: no provenance" in result.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.mp4", None), ("text.mp4", b"hello"), ("list.mp4", b"ffconcat version 1.0\nfile a.mp4\n")],
)
def test_what_is_no_film_is_refused(name: str, content: bytes | None, m2d: Run, folder: Path) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    result = m2d("inspect", name)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {name}: ")
    assert result.stdout == ""
