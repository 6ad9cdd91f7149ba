"""A file is cut off when its container announces more than it has, never for further bytes."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from m2d.video.read import probe
from m2d.video.whole import is_whole
from tests.m2d.video.small_clips import ffmpeg, pattern

CODECS = {".mp4": "libx264", ".mov": "libx264", ".avi": "mjpeg", ".mkv": "libx264", ".webm": "libvpx-vp9"}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One film per container."""
    folder = tmp_path_factory.mktemp("films")
    return {suffix: pattern(folder / f"a{suffix}", "-c:v", codec) for suffix, codec in CODECS.items()}


@pytest.mark.parametrize("suffix", CODECS)
def test_film_that_is_cut_off_anywhere_is_refused(
    films: dict[str, Path], tmp_path: Path, suffix: str
) -> None:
    data = films[suffix].read_bytes()
    short = tmp_path / f"short{suffix}"
    for size_bytes in (*(int(len(data) * share) for share in (0.3, 0.5, 0.75, 0.9, 0.99)), len(data) - 1):
        short.write_bytes(data[:size_bytes])
        with pytest.raises(FilmError, match=r"short\.\w+: is (cut off|not a film that can be read)"):
            probe(short)


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("more", [b"st", b"\0" * 3000, bytes(range(1, 256)) * 4, b"TRAILER of a camera"])
def test_bytes_behind_the_end_are_ignored(
    films: dict[str, Path], tmp_path: Path, suffix: str, more: bytes
) -> None:
    path = tmp_path / f"longer{suffix}"
    path.write_bytes(films[suffix].read_bytes() + more)
    assert sum(1 for _ in film_frames(path, is_strict=True)) == 25


def test_film_of_a_fragment_per_frame_is_whole(tmp_path: Path) -> None:
    flags = "frag_every_frame+empty_moov+default_base_moof"
    path = pattern(tmp_path / "live.mp4", "-c:v", "mjpeg", "-movflags", flags, num_frames=6000, size="16x16")
    assert is_whole(path, demuxer="mov")
    short = tmp_path / "short.mp4"
    short.write_bytes(path.read_bytes()[:-5000])
    assert is_whole(short, demuxer="mov") is False


def test_recording_without_sizes_is_judged_by_its_duration(films: dict[str, Path], tmp_path: Path) -> None:
    data = bytearray(films[".avi"].read_bytes())
    # A recorder that was ended has not written the size of its file.
    data[4:8] = bytes(4)
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    assert sum(1 for _ in film_frames(path)) == 25
    path.write_bytes(data[: len(data) // 3])
    with pytest.raises(FilmError, match=r"a\.avi: is cut off; it announces 1\.0 s and holds 0\.\d s, copy"):
        list(film_frames(path))


def test_live_stream_announces_nothing_and_is_whole(films: dict[str, Path], tmp_path: Path) -> None:
    live = tmp_path / "live.mkv"
    ffmpeg("-i", films[".mkv"], "-c", "copy", "-live", "1", live)
    assert is_whole(live, demuxer="matroska,webm") is None
    assert sum(1 for _ in film_frames(live, is_strict=True)) == 25


def test_extra_streams_are_no_missing_part(films: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "long-sound.mkv"
    ffmpeg("-i", films[".mkv"], "-f", "lavfi", "-i", "sine=duration=3", "-c:v", "copy", path)
    with av.open(path) as container:
        assert (container.duration or 0) > 2 * av.time_base
    assert sum(1 for _ in film_frames(path, is_strict=True)) == 25
