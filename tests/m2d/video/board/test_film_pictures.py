"""Painted while decoding, a film's pictures are those of its scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.joins import Join
from m2d.video.board import film_pictures
from m2d.video.board.film_pictures import paint_film
from m2d.video.board.pictures import GridPainter, StripePainter
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.provenance import ProvenanceError
from tests.m2d.video.grown_films import grown, write_grown

JOINS = {
    1: Join(kind="crossfade", num_frames=2),
    3: Join(kind="crossfade", num_frames=3),
    4: Join(kind="continue"),
}


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_grown(tmp_path / "walk.mp4", *grown(joins=JOINS))


def test_every_scene_has_its_frames_those_of_crossfades_too(film: Path) -> None:
    whole = read_film(film)
    provenance = whole.provenance
    assert provenance is not None
    pictures = paint_film(film, whole.info, provenance)
    for frames_PHWC, grid in zip(whole.scenes, pictures.grids, strict=True):
        painter = GridPainter(len(frames_PHWC), fps=float(whole.info.fps))
        for index, frame_HWC in enumerate(frames_PHWC):
            painter.add(index, frame_HWC)
        assert grid == painter.finish()
    stripe = StripePainter(len(whole.frames_PHWC))
    for frame_HWC in whole.frames_PHWC:
        stripe.add(frame_HWC)
    assert pictures.stripe == stripe.finish()


def test_frames_that_are_in_no_picture_are_not_converted(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_film(film)
    converted = []
    rgb = FilmFrame.rgb

    def count(frame: FilmFrame, *, upscale: int) -> np.ndarray:
        converted.append(frame.time_s)
        return rgb(frame, upscale=upscale)

    monkeypatch.setattr(FilmFrame, "rgb", count)
    monkeypatch.setattr("m2d.video.board.pictures.MOST_FRAMES", 2)
    monkeypatch.setattr("m2d.video.board.pictures.WIDEST_STRIPE", 2)
    assert whole.provenance is not None
    paint_film(film, whole.info, whole.provenance)
    # The first and the last frame of each scene: shared where one goes on without a break.
    assert len(converted) == len(set(converted)) <= 2 * len(whole.provenance.scenes) < len(whole.frames_PHWC)


def test_a_film_that_ends_early_is_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_film(film)
    assert whole.provenance is not None
    frames = list(film_frames(film))
    monkeypatch.setattr(film_pictures, "film_frames", lambda _: (frame for frame in frames[:-1]))
    with pytest.raises(ProvenanceError, match=f"the film has {len(frames) - 1} frames of"):
        paint_film(film, whole.info, whole.provenance)
