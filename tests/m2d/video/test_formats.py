"""The containers and codecs of cameras, editors and web pages are read; lists and rare formats are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2d.data.decode import VideoFacts, scan_video
from m2d.video.film_frames import film_frames
from m2d.video.formats import DEMUXERS, VIDEO_SUFFIXES
from m2d.video.open_film import FilmError
from m2d.video.read import probe
from tests.m2d.video.small_clips import pattern

KINDS = {
    "a.mov": ("prores", "-c:v", "prores_ks"),
    "b.mov": ("dnxhd", "-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-pix_fmt", "yuv422p"),
    "a.mxf": ("mpeg2video", "-c:v", "mpeg2video"),
    "a.mkv": ("ffv1", "-c:v", "ffv1"),
    "a.mpg": ("mpeg2video", "-c:v", "mpeg2video", "-bf", "2"),
    "b.mpeg": ("mpeg1video", "-c:v", "mpeg1video"),
    "a.m2v": ("mpeg2video", "-c:v", "mpeg2video"),
    "a.ts": ("mpeg2video", "-c:v", "mpeg2video"),
    "b.ts": ("hevc", "-c:v", "libx265", "-x265-params", "log-level=none"),
    "a.m2ts": ("h264", "-c:v", "libx264", "-mpegts_m2ts_mode", "1"),
    "a.ogv": ("theora", "-c:v", "libtheora"),
    "a.gif": ("gif", "-pix_fmt", "rgb8"),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    size = {"b.mov": "256x128"}
    made = {
        name: pattern(folder / name, *arguments, num_frames=12, size=size.get(name, "64x48"))
        for name, (_, *arguments) in KINDS.items()
    }
    pictures = [Image.fromarray(np.full((48, 64, 3), 20 * number, np.uint8)) for number in range(12)]
    durations = [40] * 11 + [1000]
    made["a.webp"] = folder / "a.webp"
    pictures[0].save(
        made["a.webp"], save_all=True, append_images=pictures[1:], duration=durations, lossless=True
    )
    return made


@pytest.mark.parametrize("name", [*KINDS, "a.webp"])
def test_film_is_read_with_all_its_frames(films: dict[str, Path], name: str) -> None:
    facts = scan_video(films[name])
    assert isinstance(facts, VideoFacts)
    assert facts.num_frames == 12
    assert facts.fps == pytest.approx(25, abs=0.1)
    assert probe(films[name]).codec == KINDS.get(name, ("webp",))[0]
    assert films[name].suffix in VIDEO_SUFFIXES
    *_, last = film_frames(films[name])
    assert last.rgb(upscale=1).std() > 10 or name == "a.webp"


def test_a_webp_animation_is_shown_as_long_as_it_says(films: dict[str, Path], tmp_path: Path) -> None:
    frames = list(film_frames(films["a.webp"]))
    assert [int(frame.rgb(upscale=1).mean()) for frame in frames] == [20 * number for number in range(12)]
    assert frames[-1].end_s == pytest.approx(1.44)
    Image.new("RGB", (8, 8)).save(tmp_path / "still.webp")
    with pytest.raises(FilmError, match=r"still\.webp: .* \(a still picture, not an animation\)"):
        probe(tmp_path / "still.webp")


@pytest.mark.parametrize("name", ["a.mxf", "a.ogv", "a.gif", "a.webp"])
def test_film_that_announces_its_end_is_refused_without_it(
    films: dict[str, Path], tmp_path: Path, name: str
) -> None:
    data = films[name].read_bytes()
    short = tmp_path / name
    for share in (0.4, 0.9):
        short.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(FilmError, match=r"is (cut off;|not a film that can be read)"):
            list(film_frames(short))
    short.write_bytes(data + b"TRAILER" * 100)
    assert sum(1 for _ in film_frames(short, is_strict=True)) == 12


@pytest.mark.parametrize("name", ["a.ts", "a.m2ts", "a.mpg"])
def test_stream_without_an_end_is_refused_where_a_packet_is_cut(
    films: dict[str, Path], tmp_path: Path, name: str
) -> None:
    short = tmp_path / name
    short.write_bytes(films[name].read_bytes()[:-100])
    with pytest.raises(FilmError, match="is cut off; its last part is missing"):
        probe(short)


def test_no_format_that_names_other_files_is_read() -> None:
    assert not {"concat", "hls", "dash", "sdp", "rtsp", "image2", "imf", "lavfi", "mpl2"} & set(DEMUXERS)


@pytest.mark.parametrize(
    ("side", "num_frames", "message"),
    [
        (4096, 100, "has 2,320 bytes for 100 frames of 4096x4096 pixels, too few for an animation"),
        (8, 3001, "has more than 3,000 frames, too many for an animation"),
        (4097, 1, r"4097x4097 pixels; at most 16,777,216 are allowed in an animation"),
    ],
    ids=["pixels", "frames", "size"],
)
def test_an_animation_of_a_few_bytes_is_refused_before_it_is_decoded(
    side: int, num_frames: int, message: str, tmp_path: Path
) -> None:
    """Pictures of one pixel on a large canvas: 23 bytes for each frame."""
    path = tmp_path / "bomb.gif"
    picture = b"!\xf9\x04\x04\x05\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    canvas = b"GIF89a" + side.to_bytes(2, "little") * 2 + b"\xf0\0\0\0\0\0\xff\xff\xff"
    path.write_bytes(canvas + picture * num_frames + b";")
    with pytest.raises(FilmError, match=message):
        probe(path)
