"""Any film becomes scenes at the model's rate and size, and what was done to it is said."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import EXIT_BAD_INPUT, InputError
from m2d.video import external as external_module
from m2d.video.external import ExternalVideo, read_external_video
from m2d.video.open_film import FilmError
from tests.m2d.video.conftest import draw_scene, draw_story
from tests.m2d.video.small_clips import ffmpeg

WriteFilm = Callable[..., Path]
HEIGHT, WIDTH = 16, 24


def footage(path: Path, **given: Any) -> ExternalVideo:
    asked: dict[str, Any] = {"fps": 8, "height": HEIGHT, "width": WIDTH, "num_frames": 5}
    return read_external_video(path, **{**asked, "cuts_s": (), "max_scenes": 2, **given})


def numbered(path: Path, times_s: Sequence[float], *, height: int = HEIGHT, width: int = WIDTH) -> Path:
    """A film of even frames that tell their number (0..49) by their grey, shown at the given times."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, time_s in enumerate(times_s):
            level = 10 + 5 * (number % 50)
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(frames_PHWC: np.ndarray) -> list[int]:
    return [round((float(frame.mean()) - 10) / 5) for frame in frames_PHWC]


def even_times(num_frames: int, fps: float) -> list[float]:
    return [number / fps for number in range(num_frames)]


def test_film_of_the_models_own_rate_and_size_comes_out_as_it_is(film: WriteFilm) -> None:
    path = film(scenes=draw_story(3), upscale=1, has_provenance=False)
    taken = footage(path, cuts_s=(0.625, 1.25), max_scenes=3)
    whole_PHWC = read_film(path).frames_PHWC
    assert np.array_equal(np.concatenate(taken.clips), whole_PHWC)
    assert taken.whole.spans_s == ((0.0, 0.625), (0.625, 1.25), (1.25, 1.875))
    assert taken.notes == ("3 scenes given: 0.0-0.6 s, 0.6-1.2 s, 1.2-1.9 s",)


def test_enlarged_film_of_m2d_is_taken_at_the_size_that_was_made(film: WriteFilm) -> None:
    taken = footage(film(scenes=draw_story(2)), cuts_s=(0.625,))
    difference = np.abs(taken.clips[1].astype(int) - draw_scene(1))
    assert difference.mean() < 3
    assert taken.notes == ("2 scenes given: 0.0-0.6 s, 0.6-1.2 s",)


@pytest.mark.parametrize(
    ("film_fps", "expected"),
    [
        (30, [15, 19, 22, 26, 30]),
        (24, [18, 21, 24, 27, 30]),
        (16, [22, 24, 26, 28, 30]),
        (10, [25, 26, 27, 29, 30]),
        (8, [26, 27, 28, 29, 30]),
        (4, [28, 29, 29, 30, 30]),
    ],
)
def test_a_scene_ends_with_its_last_frame_and_is_resampled_backwards(
    tmp_path: Path, film_fps: int, expected: list[int]
) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(31, film_fps))
    taken = footage(path)
    assert numbers(taken.clips[0]) == expected
    rate_notes = [note for note in taken.notes if "frames per second" in note]
    assert rate_notes == ([] if film_fps == 8 else [f"resampled from {film_fps} to 8 frames per second"])
    assert ("frames are repeated: the video has fewer per second" in taken.notes) == (film_fps < 8)
    assert "at most the last 5 frames (0.6 s) of a scene are context" in taken.notes


def test_frames_of_a_varying_rate_are_taken_by_their_times(tmp_path: Path) -> None:
    times_s = [0.0, 0.04, 0.08, 0.5, 0.51, 0.52, 0.55, 0.75, 0.76, 0.9, 1.0]
    taken = footage(numbered(tmp_path / "phone.mkv", times_s))
    # Wanted at 0.5, 0.625, 0.75, 0.875 and 1.0 s.
    assert numbers(taken.clips[0]) == [3, 6, 7, 9, 10]
    assert "resampled from 10 (average of a varying rate) to 8 frames per second" in taken.notes


def test_times_are_counted_from_the_first_frame(tmp_path: Path) -> None:
    path = numbered(tmp_path / "late.mkv", [7 + time_s for time_s in even_times(20, 8)])
    taken = footage(path, cuts_s=(1.25,))
    assert list(taken.whole.spans_s[-len(taken.clips) :]) == [(0.0, 1.25), (1.25, 2.5)]
    assert numbers(taken.clips[0]) == [5, 6, 7, 8, 9]


def test_the_last_scenes_are_taken(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(40, 8))
    taken = footage(path, cuts_s=(1.25, 2.5, 3.75))
    assert [numbers(clip_PHWC) for clip_PHWC in taken.clips] == [
        [25, 26, 27, 28, 29],
        [35, 36, 37, 38, 39],
    ]
    assert taken.notes[0] == "4 scenes given, the last 2 are context: 2.5-3.8 s, 3.8-5.0 s"


def test_scenes_are_found_where_the_film_cuts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places = [
        np.kron(rng.integers(0, 256, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8) for _ in range(3)
    ]
    with av.open(tmp_path / "film.mp4", "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(90):
            place = places[0 if number < 25 else 1 if number < 60 else 2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(place, format="rgb24")))
        container.mux(stream.encode())
    taken = footage(tmp_path / "film.mp4", cuts_s=None, height=64, width=96)
    assert taken.notes[0] == "3 scenes found, the last 2 are context: 1.0-2.5 s, 2.5-3.8 s"
    for clip_PHWC, place in zip(taken.clips, places[1:], strict=True):
        assert np.abs(clip_PHWC.astype(int) - place).mean() < 12


def test_film_without_a_cut_is_one_scene(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(20, 8))
    assert footage(path, cuts_s=None).notes[0] == "no cut found, taken as one scene: 0.0-2.5 s"
    assert footage(path).notes[0] == "taken as one scene: 0.0-2.5 s"


def test_named_cuts_need_no_package_and_found_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(20, 8))
    monkeypatch.setitem(sys.modules, "m2d.video.shot_changes", None)
    assert len(footage(path, cuts_s=(1.25,)).clips) == 2
    with pytest.raises(
        InputError, match=r"needs the package opencv-python-headless: pip install 'm2d\[data\]'"
    ):
        footage(path, cuts_s=None)


def test_before_a_short_scene_its_first_frame_is_held(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(14, 8))
    taken = footage(path, cuts_s=(1.25,), num_frames=8)
    assert numbers(taken.clips[1]) == [10, 10, 10, 10, 10, 11, 12, 13]
    assert (
        taken.notes[-1]
        == "scene 2 of 2 (1.2-1.8 s) is 4 frames too short for context; its first frame is repeated"
    )


def test_scene_with_less_than_half_of_the_frames_is_refused(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(14, 8))
    complaint = (
        r"film\.mp4: scene 2 of 2 \(1\.2-1\.8 s\) has 4 frames at 8 per second; 5 at"
        " least are needed$"
    )
    with pytest.raises(FilmError, match=complaint):
        footage(path, cuts_s=(1.25,), num_frames=9)


def test_short_scene_that_is_not_taken_does_no_harm(tmp_path: Path) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(20, 8))
    assert len(footage(path, cuts_s=(0.25, 1.25), num_frames=9).clips) == 2


@pytest.mark.parametrize("cuts_s", [(float("nan"),), (0.0,), (1.5, 1.0), (2.5,), (1.0, 1.01)])
def test_cuts_that_the_film_does_not_have_are_bad_input(tmp_path: Path, cuts_s: tuple[float, ...]) -> None:
    path = numbered(tmp_path / "film.mp4", even_times(20, 8))
    with pytest.raises(InputError, match=f"^cuts: {cuts_s[-1]:g} ") as caught:
        footage(path, cuts_s=cuts_s)
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_picture_fills_the_frame_without_bars(tmp_path: Path) -> None:
    path = tmp_path / "wide.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=0x30a060:size=192x64:rate=8:duration=1,format=yuv420p", path)
    taken = footage(path)
    assert taken.clips[0].shape == (5, HEIGHT, WIDTH, 3)
    assert taken.clips[0].std(axis=(0, 1, 2)).max() < 1
    assert taken.notes[2:] == ("cropped 48 pixels left and right", "scaled from 96x64 to 24x16 pixels")


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_film_is_turned_as_players_turn_it(tmp_path: Path, degrees: int) -> None:
    plain, tagged, turned = (tmp_path / f"{name}.mp4" for name in ("plain", "tagged", "turned"))
    # In 4:2:0 colours lie half a pixel beside their place, on another side once they are turned.
    whole = ("-pix_fmt", "yuv444p", "-qp", "0")
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=8:duration=1", *whole, plain)
    ffmpeg("-display_rotation", str(degrees), "-i", plain, "-c", "copy", tagged)
    ffmpeg("-i", tagged, *whole, turned)
    size = {"height": 48, "width": 64} if degrees == 180 else {"height": 64, "width": 48}
    ours = footage(tagged, **size)
    assert f"turned by {degrees} degrees anticlockwise, as its metadata says" in ours.notes
    theirs = footage(turned, **size)
    assert np.array_equal(ours.clips[0], theirs.clips[0])


def test_what_is_not_done_is_said(tmp_path: Path) -> None:
    plain, tagged = tmp_path / "plain.mp4", tmp_path / "tagged.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc=size=48x32:rate=8:duration=1")
    ffmpeg(*picture, "-pix_fmt", "yuv420p", "-vf", "setparams=color_trc=arib-std-b67", plain)
    ffmpeg("-display_rotation", "45", "-i", plain, "-c", "copy", tagged)
    notes = footage(tagged).notes
    assert "not turned: its metadata asks for an angle that is no right angle" in notes
    assert "high dynamic range: tone-mapped to BT.709" in notes


def test_pixels_that_are_not_square_are_shown_in_their_proportion(tmp_path: Path) -> None:
    path = tmp_path / "dvd.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=48x64:rate=8:duration=1,setsar=2", "-pix_fmt", "yuv420p", path)
    assert footage(path).notes[2:] == ("scaled from 48x64 to 24x16 pixels",)


def bad_film(folder: Path, kind: str) -> Path:
    path = folder / "bad.mp4"
    if kind == "one frame":
        return numbered(path, [0.0])
    if kind == "sound alone":
        ffmpeg("-f", "lavfi", "-i", "sine=duration=0.2", path)
    if kind == "cut off":
        path.write_bytes(numbered(path, even_times(20, 8)).read_bytes()[:-300])
    if kind == "playlist":
        numbered(folder / "secret.mp4", even_times(20, 8))
        path.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    return path


@pytest.mark.parametrize("cuts_s", [None, ()])
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("one frame", "has 1 frame at 8 per second; 3 at least are needed; give a longer film"),
        ("sound alone", "holds no video, only audio"),
        ("cut off", "is cut off"),
        ("playlist", "is not a film that can be read"),
        ("missing", "does not exist; give a video file"),
    ],
)
def test_what_is_no_film_is_bad_input(
    tmp_path: Path, kind: str, complaint: str, cuts_s: tuple[float, ...] | None
) -> None:
    with pytest.raises(FilmError, match=re.escape("bad.mp4: ") + complaint) as caught:
        footage(bad_film(tmp_path, kind), cuts_s=cuts_s)
    assert caught.value.exit_code == EXIT_BAD_INPUT


def test_mutated_films_become_footage_or_are_refused_but_never_crash(tmp_path: Path) -> None:
    data = numbered(tmp_path / "whole.mp4", even_times(20, 8)).read_bytes()
    chance = random.Random(3)
    path = tmp_path / "mutated.mp4"
    taken = refused = 0
    for _ in range(60):
        mutated = bytearray(data)
        for _ in range(chance.choice([1, 4, 30])):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        path.write_bytes(mutated)
        try:
            taken += len(footage(path).clips)
        except InputError:
            refused += 1
    assert taken > 5
    assert refused > 5


def test_film_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = numbered(tmp_path / "film.mp4", even_times(20, 8))
    short = numbered(tmp_path / "short.mp4", even_times(12, 8))
    real = external_module.film_frames
    calls = iter([long, long, short])
    monkeypatch.setattr(external_module, "film_frames", lambda _: real(next(calls)))
    with pytest.raises(FilmError, match=r"film\.mp4: was changed while it was read"):
        footage(long)


def test_request_for_nothing_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 scenes of 5 frames of 24x16 at 8"):
        footage(tmp_path / "film.mp4", max_scenes=0)


@pytest.mark.parametrize(("rate", "factor"), [(24, 3), (16, 2), (8, 1), (4, 0.5)])
def test_all_scenes_are_there_frame_by_frame_each_up_to_its_last_one(
    rate: int, factor: float, tmp_path: Path
) -> None:
    """Three scenes of one, half a and one and a half seconds, at eight frames per second."""
    path = numbered(tmp_path / "film.mp4", even_times(3 * rate, rate))
    whole = footage(path, cuts_s=(1.0, 1.5)).whole
    assert [len(picked) for picked in whole.picks] == [8, 4, 12]
    # The file tells times in milliseconds.
    assert np.abs(np.array(whole.spans_s) - [(0.0, 1.0), (1.0, 1.5), (1.5, 3.0)]).max() < 0.0015
    parts = [numbers(np.stack(list(whole.frames(range(index, index + 1))))) for index in range(3)]
    ends = [rate, 3 * rate // 2, 3 * rate]
    assert [part[-1] for part in parts] == [(end - 1) % 50 for end in ends]
    for part, end in zip(parts, ends, strict=True):
        wanted = [max(end - 1 - factor * back, 0) for back in range(len(part))][::-1]
        assert max(abs(found - want % 50) for found, want in zip(part, wanted, strict=True)) <= 0.5
    assert numbers(np.stack(list(whole.frames(range(3))))) == [number for part in parts for number in part]
