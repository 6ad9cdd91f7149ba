"""An external video keeps its size, rate and pixel aspect when scenes are added to it."""

from __future__ import annotations

import itertools
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from m2d.errors import InputError, Interrupted
from m2d.film.journal_folder import read_request
from m2d.film.make import FilmResult
from m2d.fit import FilmFit
from m2d.pipeline.comparison import film_difference
from m2d.progress import SilentReporter
from m2d.tasks import board
from m2d.tasks.inspect import inspect_film
from m2d.video import encode
from m2d.video.external import read_external_video
from m2d.video.own_picture import own_rate_notes
from m2d.video.provenance import parse_provenance, seal_provenance
from m2d.video.read import probe
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, copied, frames_of, open_studio

RATE = Fraction(24000, 1001)
CUTS = (0.5, 2.5)
LENGTHS = [12, 48, 36]
NEW = round(9 * RATE / 8)
"""The model's nine frames at eight per second, in frames of the film."""


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def picture(index: int, *, width: int, height: int) -> np.ndarray:
    """A smooth pattern that moves, so that every frame can be told from the others."""
    y, x = np.mgrid[:height, :width]
    scene = sum(index >= end for end in np.cumsum(LENGTHS)[:2])
    waves = [
        np.sin(2 * np.pi * (x / width + index / 60 + c / 3) * (scene + 1)) + y / height for c in range(3)
    ]
    return np.asarray(np.clip(np.stack(waves, axis=-1) * 60 + 110, 0, 255), np.uint8)


def film_travels(path: Path, *, aspect: Fraction = Fraction(1), width: int = 100, height: int = 60) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.sample_aspect_ratio = aspect
        for index in range(sum(LENGTHS)):
            frame_HWC = picture(index, width=width, height=height)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def travels(studio: Studio) -> Path:
    return film_travels(studio.path("travels"))


@pytest.fixture(scope="module")
def longer(studio: Studio, travels: Path) -> FilmResult:
    return studio.extend(travels, "a dog", cuts_s=CUTS, context_prompts=("blue", "green"))


def pictures_of(film: Path) -> np.ndarray:
    with av.open(str(film)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_its_scenes_keep_size_rate_and_pictures(travels: Path, longer: FilmResult) -> None:
    info = probe(longer.film)
    assert (info.width, info.height, info.fps) == (100, 60, RATE)
    assert [scene.num_frames for scene in longer.provenance.scenes] == [*LENGTHS, NEW]
    old, new = pictures_of(travels), pictures_of(longer.film)
    assert len(new) == len(old) + NEW
    # Both were encoded at the same quality.
    assert film_difference(old, new[: len(old)]).psnr_db > 40


def test_new_scenes_are_those_of_the_model_scaled_and_held(
    studio: Studio, travels: Path, longer: FilmResult
) -> None:
    small = studio.extend(
        travels,
        "a dog",
        fit="model",
        cuts_s=CUTS,
        context_prompts=("blue", "green"),
        out=studio.path("small"),
    )
    assert frames_of(small.provenance)[3] == frames_of(longer.provenance)[3]
    shown = pictures_of(longer.film)[-NEW:]
    changes = [float(np.abs(a.astype(int) - b).mean()) for a, b in itertools.pairwise(shown)]
    # Nine frames: eight changes that are more than the encoder's noise.
    assert sum(change > 0.5 for change in changes) <= 8
    assert any(
        "new scenes are scaled from 32x32 to 100x60 pixels, with black bars" in n for n in longer.notes
    )


def test_a_scene_that_would_lose_little_fills_the_picture(studio: Studio, tmp_path: Path) -> None:
    video = film_travels(tmp_path / "almost.mp4", width=80, height=64)
    result = studio.extend(video, "a dog", cuts_s=CUTS)
    assert any("to 80x64 pixels, 20% cropped" in note for note in result.notes)
    assert pictures_of(result.film)[-1][:, 0].max() > 30


def test_wide_pixels_stay_wide(studio: Studio, tmp_path: Path) -> None:
    video = film_travels(tmp_path / "dvd.mp4", aspect=Fraction(16, 11), width=44, height=64)
    result = studio.extend(video, "a dog", cuts_s=CUTS)
    info = probe(result.film)
    assert (info.width, info.height, info.pixel_aspect) == (44, 64, Fraction(16, 11))
    # 44 wide pixels are 64 square ones: nothing is lost.
    assert any("to 44x64 pixels, and shown" in note for note in result.notes)


def test_odd_sides_become_even(studio: Studio, tmp_path: Path) -> None:
    video = tmp_path / "odd.mkv"
    with av.open(str(video), "w") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = 61, 101, "yuvj444p"
        for index in range(72):
            frame = av.VideoFrame.from_ndarray(picture(index, width=101, height=61), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = studio.extend(video, "a dog", cuts_s=(), out=studio.path("odd"))
    info = probe(result.film)
    assert (info.width, info.height, info.fps) == (100, 60, 24)


def test_a_crossfade_counts_frames_of_the_film(studio: Studio, travels: Path, longer: FilmResult) -> None:
    faded = studio.extend(travels, "a dog", cuts_s=CUTS, join={"crossfade": 10}, out=studio.path("faded"))
    assert faded.provenance.scenes[-1].overlap == 10
    old, new = pictures_of(travels), pictures_of(faded.film)
    assert len(new) == len(old) + NEW - 10
    plain = pictures_of(longer.film)[len(old) :]
    start = len(old) - 10
    for place in (0, 4, 9):
        weight = (place + 1) / 11
        wanted = old[start + place] * (1 - weight) + plain[place] * weight
        assert np.abs(new[start + place] - wanted).mean() < 4


def test_it_is_extended_and_re_rolled_further_without_being_encoded_again(
    studio: Studio, longer: FilmResult
) -> None:
    reporter = RecordingReporter()
    again = studio.extend(longer.film, "a cat", out=studio.path("again"), reporter=reporter)
    assert reporter.notes == []
    packets = [scene.packets_sha256 for scene in longer.provenance.scenes]
    assert [scene.packets_sha256 for scene in again.provenance.scenes][:4] == packets
    first = studio.reroll(again.film, 0, prompts=("a sun",), out=studio.path("first"))
    assert [scene.num_frames for scene in first.provenance.scenes] == [NEW, *LENGTHS[1:], NEW, NEW]
    assert [scene.packets_sha256 for scene in first.provenance.scenes][1:4] == packets[1:]
    new = studio.reroll(again.film, 3, out=studio.path("new"))
    assert probe(new.film).fps == RATE
    assert len(pictures_of(new.film)) == len(pictures_of(again.film))


def test_scenes_that_fade_into_each_other_are_re_rolled(studio: Studio, longer: FilmResult) -> None:
    faded = studio.extend(longer.film, "a cat", join={"crossfade": 6}, out=studio.path("fading"))
    for scene in (3, 4):
        changed = studio.reroll(faded.film, scene, out=studio.path(f"fading-{scene}"))
        assert len(pictures_of(changed.film)) == sum(LENGTHS) + 2 * NEW - 6


def test_inspect_and_board_show_it(longer: FilmResult) -> None:
    found = inspect_film(longer.film)
    assert (found.num_decoded_frames, found.pictures, found.run_folder.latents) == (
        sum(LENGTHS) + NEW,
        "as written",
        "present",
    )
    page = board.draw_board(longer.film, reporter=SilentReporter(), force=True)
    assert page.films == (longer.film.name,)


def test_a_stop_is_resumed_as_it_began(studio: Studio, travels: Path, longer: FilmResult) -> None:
    asked: dict[str, Any] = {"cuts_s": CUTS, "context_prompts": ("blue", "green")}
    out = studio.path("stopped")
    with pytest.raises(Interrupted):
        studio.extend(travels, "a dog", out=out, reporter=Stopping(stage_to_stop="decode"), **asked)
    request = read_request(out)
    assert request is not None
    assert request["film"]["fit"] == "film"
    with pytest.raises(InputError, match=r'film\.fit was "film" and is absent'):
        studio.extend(travels, out=out, resume=True, fit="model")
    resumed = studio.extend(travels, out=out, resume=True)
    assert resumed.film.read_bytes() == longer.film.read_bytes()


def test_a_draft_shows_it(studio: Studio, travels: Path) -> None:
    result = studio.extend(travels, "a dog", cuts_s=CUTS, draft=True, out=studio.path("drafted"))
    assert (result.run_folder / "draft.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("lost", ["run folder", "clips", "encoder"])
def test_it_is_extended_from_the_film_alone(
    lost: str, studio: Studio, longer: FilmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = copied(longer.film, studio.path(f"lost {lost}"))
    if lost == "run folder":
        shutil.rmtree(film.with_suffix(".m2d"))
    elif lost == "clips":
        (film.with_suffix(".m2d") / "frames.safetensors").unlink()
    else:
        monkeypatch.setattr(encode, "CRF", 14)
        monkeypatch.setattr(encode, "_EXACT", (*encode._EXACT, "-metadata", "x=y"))
    again = studio.extend(film, "a cat", join={"crossfade": 3})
    assert [scene.num_frames for scene in again.provenance.scenes] == [*LENGTHS, NEW, NEW]
    old, new = pictures_of(longer.film), pictures_of(again.film)
    # Copied, or encoded again: the errors of two encodings with 40 dB each add up to 37 dB.
    least_db = 37 if lost == "encoder" else float("inf")
    assert film_difference(old[:-3], new[: len(old) - 3]).psnr_db >= least_db
    rerolled = studio.reroll(again.film, 3, prompts=("a day",))
    assert len(pictures_of(rerolled.film)) == len(new)


def test_other_records_do_not_mention_it(studio: Studio, longer: FilmResult) -> None:
    plain = studio.generate(1, name="plain").provenance
    assert '"film":' not in seal_provenance(plain)
    assert parse_provenance(seal_provenance(longer.provenance)) == longer.provenance


@pytest.mark.parametrize("fit", ["film", "model"])
def test_a_film_of_m2d_has_no_choice(fit: str, studio: Studio, longer: FilmResult) -> None:
    with pytest.raises(InputError, match=f"^fit: {fit}; the film was made by m2d, leave it out"):
        studio.extend(longer.film, "a cat", fit=fit, out=studio.path("never"))


def test_a_varying_rate_becomes_its_fastest_that_lasts(tmp_path: Path) -> None:
    path = tmp_path / "varying.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.height, stream.width, stream.pix_fmt = 60, 100, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        times_ms = [*range(0, 2000, 40), *range(2000, 4000, 80), *range(4000, 6000, 120)]
        for index, time_ms in enumerate(times_ms):
            frame = av.VideoFrame.from_ndarray(picture(index, width=100, height=60), format="rgb24")
            frame.pts, frame.time_base = time_ms, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    size = {"height": 32, "width": 32, "fps": 8, "num_frames": 9}
    video = read_external_video(path, cuts_s=(), max_scenes=2, fit="film", **size)
    assert video.fit is not None
    assert video.fit.fps == 25
    assert "its varying rate becomes 25 frames per second: frames are repeated" in video.notes
    shown = np.diff(video.whole.picks[0])
    # Every frame is there, the later ones twice and three times.
    assert set(video.whole.picks[0]) == set(range(len(times_ms)))
    assert set(shown) == {0, 1}


@pytest.mark.parametrize(
    ("fps", "is_told"), [(Fraction(1, 60), True), (Fraction(3), True), (Fraction(4), False)]
)
def test_a_film_too_slow_for_new_scenes_is_told(fps: Fraction, is_told: bool) -> None:
    times_s = np.arange(10) / float(fps)
    fit = FilmFit(width=96, height=64, pixel_aspect=Fraction(1), fps=fps, model_fps=8)
    notes = own_rate_notes(times_s, fit)
    assert ["show few of their frames" in note for note in notes] == [True] * is_told
