"""A written film is what was given, with its chapters and its provenance, or it is not there at all."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.decoded_film import read_film
from m2d import files
from m2d.errors import InputError, OutputError
from m2d.video import encode, write
from m2d.video.digests import array_digest
from m2d.video.read import probe

WriteFilm = Callable[..., Path]


def frames_of(num_scenes: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (3, 8, 12, 3), dtype=np.uint8) for _ in range(num_scenes)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_film_has_all_frames_a_chapter_per_scene_and_its_provenance(film: WriteFilm) -> None:
    path = film(title="First snow", fps=8)
    read = read_film(path)
    assert read.frames_PHWC.shape == (15, 16, 24, 3)
    assert [len(scene) for scene in read.scenes] == [5, 5, 5]
    assert read.info.fps == 8
    assert read.timestamps_s == tuple(frame / 8 for frame in range(15))
    assert read.info.title == "First snow"
    assert [chapter.title for chapter in read.chapters] == [
        "1. Actor1 walks right.",
        "2. Actor1 jumps.",
        "3. Actor1 waves.",
    ]
    assert [(chapter.start_s, chapter.end_s) for chapter in read.chapters] == [
        (0.0, 0.625),
        (0.625, 1.25),
        (1.25, 1.875),
    ]
    assert read.provenance is not None
    assert read.provenance.video.upscale == 4
    assert names(path.parent) == ["film.mp4"]


@pytest.mark.parametrize("upscale", [2, 3, 6])
def test_frames_come_back_as_they_were_but_for_a_few_levels(film: WriteFilm, upscale: int) -> None:
    scenes = frames_of()
    read = read_film(film(scenes=scenes, upscale=upscale))
    difference = read.frames_PHWC.astype(int) - np.concatenate(scenes)
    assert np.abs(difference).mean() < 3
    # Written and read many times, a systematic error would fade the picture.
    assert abs(difference.mean()) < 0.3


def test_equal_frames_give_equal_bytes(film: WriteFilm) -> None:
    assert film("a.mp4").read_bytes() == film("b.mp4").read_bytes()


def test_every_scene_begins_with_a_key_frame(film: WriteFilm) -> None:
    with av.open(film(fps=Fraction(24000, 1001))) as container:
        keys = [index for index, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys == [0, 5, 10]


def test_film_is_tagged_for_every_player(film: WriteFilm) -> None:
    data = film().read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.format.name) == ("h264", "yuv420p")
        context = stream.codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (
            1,
            1,
            1,
            1,
        )
        assert stream.average_rate == 8


def test_provenance_can_be_left_out(film: WriteFilm) -> None:
    path = film(has_provenance=False)
    assert probe(path).provenance is None
    assert b"m2d" not in path.read_bytes()
    assert len(probe(path).chapters) == 3


def test_existing_film_is_refused_and_kept(film: WriteFilm) -> None:
    path = film()
    before = path.read_bytes()
    with pytest.raises(OutputError, match=r"film\.mp4: exists already"):
        film(title="another")
    assert path.read_bytes() == before
    assert film(title="another", force=True).read_bytes() != before


@pytest.mark.parametrize(
    ("shape", "upscale", "advice"),
    [((2, 9, 12, 3), 1, "12x9 frames 12x9; .*use an even"), ((2, 8, 12, 3), 900, "10800x7200; .*a smaller")],
)
def test_sizes_that_h264_cannot_have_are_refused(
    film: WriteFilm, shape: tuple[int, ...], upscale: int, advice: str
) -> None:
    with pytest.raises(InputError, match=advice):
        film(scenes=[np.zeros(shape, np.uint8)], upscale=upscale)


@pytest.mark.parametrize("fps", [0, -1, 1000])
def test_impossible_frame_rates_are_refused(tmp_path: Path, fps: int) -> None:
    with pytest.raises(InputError, match=rf"video\.fps: {fps} frames per second"):
        write_plain(tmp_path / "film.mp4", frames_of(), fps=fps)


def test_odd_frames_can_be_written_with_an_even_factor(film: WriteFilm) -> None:
    odd = np.full((3, 9, 7, 3), (200, 60, 50), np.uint8)
    read = read_film(film(scenes=[odd], upscale=2))
    assert read.frames_PHWC.shape == odd.shape
    assert np.abs(read.frames_PHWC.astype(int) - odd).max() <= 3


def test_provenance_of_other_scenes_is_a_wrong_call(tmp_path: Path, film: WriteFilm) -> None:
    provenance = probe(film()).provenance
    with pytest.raises(ValueError, match=r"describes scenes of \[5, 5, 5\] frames"):
        write_plain(tmp_path / "other.mp4", frames_of(), provenance=provenance)


def write_plain(path: Path, scenes: list[np.ndarray], **given: object) -> None:
    arguments = {"fps": 8, "upscale": 2, "title": "", "provenance": None, "force": True} | given
    write.write_film(path, scenes, scene_prompts=["x"] * len(scenes), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["encode_scene", "_mux", "copy_to_part", "_verify"])
def test_interrupted_anywhere_the_old_film_is_kept_and_nothing_else(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, where: str, failure: type[BaseException]
) -> None:
    path = film()
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(write, where, fail)
    with pytest.raises(failure):
        film(title="another", force=True)
    assert path.read_bytes() == before
    assert names(path.parent) == ["film.mp4"]


def test_interrupted_between_frames_the_encoder_is_ended(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = []

    def interrupted(*_: object, **__: object) -> object:
        yield b"\0" * 10
        raise KeyboardInterrupt

    real = encode._feed
    monkeypatch.setattr(encode, "_enlarged", interrupted)
    monkeypatch.setattr(
        encode, "_feed", lambda process, frames: (started.append(process), real(process, frames))
    )
    with pytest.raises(KeyboardInterrupt):
        film()
    assert started[0].returncode is not None
    assert names(tmp_path) == []


def test_encoder_that_loses_frames_is_found_out(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = encode._enlarged
    monkeypatch.setattr(encode, "_enlarged", lambda *a, **k: iter(list(real(*a, **k))[:-2]))
    with pytest.raises(OutputError, match="the encoder made 3 of 5 frames"):
        film()
    assert names(tmp_path) == []


def test_encoder_that_changes_the_order_is_found_out(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = encode._enlarged
    monkeypatch.setattr(encode, "_enlarged", lambda *a, **k: reversed(list(real(*a, **k))))
    with pytest.raises(OutputError, match="frame 0 differs by 60 levels of 255 after encoding"):
        film(
            scenes=[
                np.array([0, 128, 70], np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
            ]
        )
    assert names(tmp_path) == []


def test_encoder_that_fails_is_quoted(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encode, "_CONVERSION", "no_such_filter")
    with pytest.raises(OutputError, match=r"the encoder failed with exit code \d+: [A-Z]"):
        film()
    assert names(tmp_path) == []


class FullFile(io.BytesIO):
    """A file whose disk is full at one call, or from then on; a failed write has taken half."""

    def __init__(self, *, at: int, stays: bool) -> None:
        super().__init__()
        self.at, self.stays, self.done = at, stays, 0

    def refuse(self) -> None:
        self.done += 1
        if self.done == self.at or (self.stays and self.done > self.at):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        self.refuse()
        return super().write(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        # A buffered file writes what it holds first.
        self.refuse()
        return super().seek(offset, whence)


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
def test_a_disk_that_is_full_while_the_film_is_muxed_is_one_error_and_no_word_of_pyav(
    tmp_path: Path, stays: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, at, said = tmp_path / "film.mp4", 0, []
    while not path.exists():
        at += 1
        file = FullFile(at=at, stays=stays)
        monkeypatch.setattr(write, "nameless_file", lambda _, file=file: nullcontext(file))
        try:
            write_plain(path, frames_of(1))
        except OutputError as error:
            said.append(str(error))
    assert len(said) == at - 1 > 5
    assert all("could not be written: No space left on device" in each for each in said)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert names(tmp_path) == ["film.mp4"]


def test_file_that_changed_on_the_disk_is_found_out(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def halved(part: Path, source: IO[bytes]) -> None:
        data = source.read()
        files.write_part(part, data[: len(data) // 2])

    monkeypatch.setattr(write, "copy_to_part", halved)
    with pytest.raises(OutputError, match=r"cannot be decoded|frames are in the written file"):
        film()
    assert names(tmp_path) == []


NASTY = st.one_of(
    st.text(st.characters(), max_size=60),
    st.lists(
        st.sampled_from(
            [
                *(
                    "\n",
                    "\r\n[CHAPTER]\nSTART=0\n",
                    ";",
                    "#",
                    "=",
                    "\\",
                    "\\\\n",
                    "\0",
                    "\x1b[31m",
                    "\x1b]0;x\x07",
                ),
                *(
                    "\u202eabc",
                    "\u05e9\u05dc\u05d5\u05dd",
                    "\ud800",
                    "\udfff",
                    "\U0001f9e1",
                    "%s{}[/bold]",
                    "'\"",
                ),
                *("\x9b2J", "\u2028", "&amp;<title>", "TIMEBASE=1/1", "long " * 3000),
            ]
        ),
        min_size=1,
        max_size=4,
    ).map("".join),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompts=st.lists(NASTY, min_size=4, max_size=4), title=NASTY)
def test_no_prompt_can_break_chapters_or_provenance(film: WriteFilm, prompts: list[str], title: str) -> None:
    scenes = [np.full((2, 4, 4, 3), 60 * index, np.uint8) for index in range(4)]
    info = probe(film(scenes=scenes, prompts=prompts, title=title, force=True))
    numbers = [chapter.title.removeprefix("Scene ").partition(".")[0] for chapter in info.chapters]
    assert numbers == ["1", "2", "3", "4"]
    assert [chapter.start_s for chapter in info.chapters] == [0.0, 0.25, 0.5, 0.75]
    assert info.provenance is not None
    kept = [prompt.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for prompt in prompts]
    told = [scene.prompt for scene in info.provenance.scenes]
    if not any("\ud800" <= character <= "\udfff" for prompt in prompts for character in prompt):
        assert told == kept == prompts
    assert [scene.frames_sha256 for scene in info.provenance.scenes] == [
        array_digest(each) for each in scenes
    ]
    for text in (info.title, *(chapter.title for chapter in info.chapters)):
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)
