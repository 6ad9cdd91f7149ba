"""Fields become frames, HD without a colour matrix gets the one that players use, and both are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from m2d.data.decode import VideoFacts, scan_video
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.treatment import DEINTERLACED, READ_AS_BT709
from tests.m2d.video.small_clips import ffmpeg

# A white block that moves eight pixels from field to field.
MOVING = (
    "color=black:size=128x96:rate=50,geq=lum='if(between(X-8*N\\,0\\,24)*between(Y\\,24\\,72)\\,235\\,16)'"
)


def interlaced(path: Path, *arguments: str, order: str = "top") -> Path:
    """Write twelve frames of two fields each."""
    weave = (
        f"{MOVING}:cb=128:cr=128,tinterlace=interleave_{order},setfield={'tff' if order == 'top' else 'bff'}"
    )
    ffmpeg("-f", "lavfi", "-i", weave, "-frames:v", 12, "-pix_fmt", "yuv420p", *arguments, path)
    return path


def combing(frame: FilmFrame) -> float:
    """How much lines differ from both of their neighbours, in levels."""
    luma_HW = frame.rgb(upscale=1).mean(-1)
    middle, around = luma_HW[1:-1], (luma_HW[:-2] + luma_HW[2:]) / 2
    return float(np.abs(middle - around).mean())


@pytest.mark.parametrize("order", ["top", "bottom"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mp4", ("-c:v", "libx264", "-x264-params", "{}=1")),
        ("a.mpg", ("-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-qscale:v", "2")),
        ("a.mov", ("-c:v", "prores_ks", "-flags", "+ildct")),
    ],
    ids=["h264", "mpeg2", "prores"],
)
def test_interlaced_film_is_deinterlaced_frame_by_frame(
    tmp_path: Path, name: str, arguments: tuple[str, ...], order: str
) -> None:
    field = "tff" if order == "top" else "bff"
    path = interlaced(tmp_path / name, *(part.format(field) for part in arguments), order=order)
    frames = list(film_frames(path, is_strict=True))
    assert len(frames) == 12
    assert frames[-1].notes == (DEINTERLACED,)
    start_s = frames[0].time_s
    assert [frame.time_s - start_s for frame in frames] == pytest.approx(
        [n / 25 for n in range(12)], abs=0.002
    )
    # The raw frames have about 4 levels.
    assert max(combing(frame) for frame in frames[1:-1]) < 1.5
    facts = scan_video(path)
    assert isinstance(facts, VideoFacts)
    assert (facts.num_frames, facts.is_steady) == (12, True)
    assert DEINTERLACED in facts.notes


def test_progressive_film_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48", "-frames:v", 3, "-pix_fmt", "yuv420p", path)
    assert [frame.notes for frame in film_frames(path)] == [()] * 3


def painted(path: Path, *, size: str, matrix: str, is_tagged: bool) -> Path:
    """Write one colour, converted with `matrix`, with or without saying so."""
    source = f"color=0x20c040:size={size}:rate=5,format=gbrp,scale=out_color_matrix={matrix},format=yuv420p"
    tags = ("-colorspace", matrix) if is_tagged else ("-bsf:v", "h264_metadata=matrix_coefficients=2")
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 2, "-c:v", "libx264", "-qp", 1, *tags, path)
    return path


@pytest.mark.parametrize(
    ("size", "matrix", "is_tagged", "notes"),
    [
        ("1280x720", "bt709", False, (READ_AS_BT709,)),
        ("480x854", "bt709", False, (READ_AS_BT709,)),
        ("1280x536", "bt709", False, (READ_AS_BT709,)),
        ("1280x720", "bt709", True, ()),
        ("1280x720", "smpte170m", True, ()),
        ("720x576", "smpte170m", False, ()),
        ("640x480", "smpte170m", False, ()),
        ("640x480", "bt709", True, ()),
    ],
)
def test_colours_are_those_that_players_show(
    tmp_path: Path, size: str, matrix: str, is_tagged: bool, notes: tuple[str, ...]
) -> None:
    path = painted(tmp_path / "a.mp4", size=size, matrix=matrix, is_tagged=is_tagged)
    *_, last = film_frames(path)
    assert last.notes == notes
    assert np.abs(last.rgb(upscale=1).mean((0, 1)) - (0x20, 0xC0, 0x40)).max() < 3
    assert np.abs(last.thumbnail(side=32).mean((0, 1)) - (0x40, 0xC0, 0x20)).max() < 6
