"""What is beside a film is compared with the film, and nothing of it is believed unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2d.tasks.inspect import inspect_film
from m2d.video.run_folder import RECORD, run_folder_of
from tests.m2d.video.grown_films import GENERATE, TIMINGS_S, grown, write_grown


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_grown(tmp_path / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))


def test_frames_latents_and_timings_are_found(film: Path) -> None:
    found = inspect_film(film)
    assert found.num_decoded_frames == 15
    assert found.run_folder.latents == "present"
    assert found.run_folder.timings_s == TIMINGS_S


def test_a_film_without_a_run_folder_is_no_error(tmp_path: Path) -> None:
    film = write_grown(tmp_path / "walk.mp4", *grown((GENERATE,), (0, 0, 0)), has_run_folder=False)
    assert inspect_film(film).run_folder.latents == "absent"


def test_the_run_folder_of_another_film_is_told(film: Path, tmp_path: Path) -> None:
    other = write_grown(tmp_path / "other.mp4", *grown((GENERATE,), (0, 0, 0), title="Another"))
    film.write_bytes(other.read_bytes())
    found = inspect_film(film).run_folder
    assert (found.latents, dict(found.timings_s)) == ("unusable", {})
    assert "belongs to another run" in found.problem


@pytest.mark.parametrize("wrong", ["soon", None, [1], -1, float("nan")])
def test_timings_that_are_no_lengths_of_time_are_left_out(film: Path, wrong: object) -> None:
    path = run_folder_of(film) / RECORD
    record = json.loads(path.read_text())
    record["timings_s"] = {"denoise": 2, "decode": wrong}
    path.write_text(json.dumps(record))
    assert inspect_film(film).run_folder.timings_s == {"denoise": 2.0}
