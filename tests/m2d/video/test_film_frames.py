"""What a container leaves out is no damage; what it shows and cannot be decoded is."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from tests.m2d.video.small_clips import ffmpeg, pattern, timed


def num_frames(path: Path) -> int:
    """Decode strictly."""
    return sum(1 for _ in film_frames(path, is_strict=True))


def num_packets(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


@pytest.mark.parametrize("name", ["trim.mp4", "trim.mov", "trim.mkv"])
@pytest.mark.parametrize(
    "codec",
    [
        ("libx264", "-g", "10", "-bf", "2"),
        ("libx265", "-x265-params", "keyint=10:min-keyint=10:open-gop=1:bframes=3:log-level=none"),
        ("mpeg2video", "-g", "10", "-bf", "2"),
    ],
    ids=["h264", "hevc-open-gop", "mpeg2"],
)
def test_a_clip_trimmed_without_encoding_has_the_frames_that_players_show(
    tmp_path: Path, name: str, codec: tuple[str, ...]
) -> None:
    whole = pattern(tmp_path / "whole.mp4", "-c:v", *codec, num_frames=40)
    trim = tmp_path / name
    ffmpeg("-ss", "0.64", "-i", whole, "-c", "copy", trim)
    # The cut is not at a key frame: packets before it are there to decode those after it.
    assert num_frames(trim) == num_shown(trim) <= num_packets(trim)
    assert num_shown(trim) == 24 or name == "trim.mkv"


def num_shown(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_frames_that_an_index_repeats_are_not_missing(tmp_path: Path) -> None:
    times_s = [0, 0.2, 0.24, 0.5, 0.9]
    path = timed(tmp_path / "screen.avi", times_s, end_s=2, codec="mpeg4")
    with av.open(path) as container:
        assert container.streams.video[0].frames > len(times_s)
    assert num_frames(path) == len(times_s)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv", "a.avi"])
def test_the_last_frame_is_shown_as_long_as_the_container_says(tmp_path: Path, name: str) -> None:
    codec = "mjpeg" if name == "a.avi" else "libx264"
    path = timed(tmp_path / name, [number / 25 for number in range(10)], end_s=3, codec=codec)
    *others, last = film_frames(path)
    start_s = others[0].time_s
    assert last.time_s - start_s == pytest.approx(0.36, abs=0.002)
    assert last.end_s is not None
    assert last.end_s - start_s == pytest.approx(3, abs=0.002)
    assert others[-1].end_s == last.time_s


def packet_position(film: Path, number: int) -> int:
    with av.open(film) as container:
        return list(container.streams.video[0].index_entries)[number].pos


def test_a_damaged_packet_is_refused_with_its_place(tmp_path: Path) -> None:
    path = pattern(tmp_path / "damaged.mp4", "-c:v", "libx264", "-bf", "0", "-g", "50")
    data = bytearray(path.read_bytes())
    first_unit = packet_position(path, 20) + 4
    data[first_unit : first_unit + 40] = b"\xff" * 40
    path.write_bytes(data)
    with pytest.raises(FilmError, match=r"damaged\.mp4: frame 20, at 0\.8 s, is corrupt \(Invalid .*copy"):
        num_frames(path)


def test_a_packet_that_gives_no_picture_is_damage(tmp_path: Path) -> None:
    path = pattern(
        tmp_path / "damaged.mp4", "-c:v", "libvpx-vp9", "-deadline", "realtime", "-lag-in-frames", 0
    )
    data = bytearray(path.read_bytes())
    # The bit that shows a frame of VP9.
    data[packet_position(path, 20)] &= ~2
    path.write_bytes(data)
    with pytest.raises(FilmError, match=r"1 of 25 frames give no picture, the first at 0\.8 s; copy"):
        num_frames(path)
    assert sum(1 for _ in film_frames(path)) == 24


@pytest.mark.parametrize("is_strict", [False, True])
def test_an_index_of_samples_behind_the_end_is_a_cut_off_film(tmp_path: Path, is_strict: bool) -> None:
    data = pattern(tmp_path / "a.mp4", "-c:v", "mjpeg", "-movflags", "faststart").read_bytes()
    place = data.index(b"mdat")
    short = bytearray(data[: place + (len(data) - place) // 2])
    # Length 0: the box extends to the end of the file, wherever that is.
    short[place - 4 : place] = bytes(4)
    (tmp_path / "short.mp4").write_bytes(short)
    with pytest.raises(FilmError, match=r"short\.mp4: is cut off; \d+ of 25 frames in its index are there"):
        list(film_frames(tmp_path / "short.mp4", is_strict=is_strict))


def test_a_size_that_changes_on_the_way_is_refused_with_its_place(tmp_path: Path) -> None:
    # A transport stream may be the end of one programme and the beginning of another.
    parts = [
        pattern(tmp_path / f"{size}.ts", "-c:v", "mpeg2video", num_frames=10, size=size)
        for size in ("64x48", "48x64")
    ]
    video = tmp_path / "both.ts"
    video.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(FilmError, match=r"both\.ts: its size changes to 48x64 at frame \d+"):
        num_frames(video)
