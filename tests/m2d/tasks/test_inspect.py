"""A film and what is beside it are compared with what the film says; nothing of it is believed unseen."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from m2d.tasks.inspect import inspect_film
from m2d.video.provenance import Provenance
from m2d.video.run_folder import RECORD, run_folder_of
from m2d.video.write import encode_scenes
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


@pytest.mark.parametrize("wrong", ["soon", None, [1], -1, float("nan"), 10**400])
def test_timings_that_are_no_lengths_of_time_are_left_out(film: Path, wrong: object) -> None:
    path = run_folder_of(film) / RECORD
    record = json.loads(path.read_text())
    record["timings_s"] = {"denoise": 2, "decode": wrong}
    path.write_text(json.dumps(record))
    assert inspect_film(film).run_folder.timings_s == {"denoise": 2.0}


def told_of_packets(provenance: Provenance, shown: Sequence[np.ndarray], folder: Path) -> Provenance:
    """The provenance as it is once the scenes are encoded."""
    video = provenance.video
    encoded = encode_scenes(shown, folder / "film.mp4", fps=video.fps, upscale=video.upscale)
    scenes = [
        scene.model_copy(update={"packets_sha256": part.digest()})
        for scene, part in zip(provenance.scenes, encoded, strict=True)
    ]
    return provenance.model_copy(update={"scenes": tuple(scenes)})


def test_pictures_that_are_not_those_that_were_written_are_told_scene_by_scene(tmp_path: Path) -> None:
    provenance, shown = grown((GENERATE,), (0, 0, 0))
    provenance = told_of_packets(provenance, shown, tmp_path)
    found = inspect_film(write_grown(tmp_path / "walk.mp4", provenance, shown))
    assert (found.pictures, found.changed_scenes) == ("as written", ())
    other = [shown[0], 255 - shown[1], shown[2]]
    found = inspect_film(write_grown(tmp_path / "walk.mp4", provenance, other))
    assert (found.pictures, found.changed_scenes) == ("changed", (1,))
    assert found.num_decoded_frames == 15


def test_a_film_that_does_not_tell_how_it_was_encoded_is_not_called_changed(film: Path) -> None:
    found = inspect_film(film)
    assert (found.pictures, found.changed_scenes) == ("unknown", ())
