"""High dynamic range comes out as FFmpeg's own tone mapping makes it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2d.video import tone_mapping
from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from m2d.video.treatment import TONE_MAPPED
from tests.m2d.video.small_clips import ffmpeg


def film(path: Path, *, transfer: str) -> Path:
    """Write three frames of 10 bits whose colours run from black to as bright as a screen can be."""
    source = (
        "gradients=size=128x96:rate=5:c0=0x202020:c1=0xa07050:x0=0:y0=0:x1=127:y1=95,format=gbrp10le,"
        "scale=out_color_matrix=bt2020:out_range=tv,format=yuv420p10le"
    )
    colours = f"log-level=none:colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc:range=limited"
    ffmpeg("-f", "lavfi", "-i", source, "-frames:v", 3, "-c:v", "libx265", "-x265-params", colours, path)
    return path


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_frames_are_those_of_the_filters_that_map_them(tmp_path: Path, transfer: str) -> None:
    path, reference = film(tmp_path / "hdr.mkv", transfer=transfer), tmp_path / "reference.png"
    steps = (
        "zscale=transfer=linear:npl=100,format=gbrpf32le,zscale=primaries=bt709",
        "tonemap=hable:desat=0:peak=10,zscale=transfer=bt709:matrix=bt709:range=full,format=rgb24",
    )
    ffmpeg("-i", path, "-vf", ",".join(steps), "-frames:v", 1, reference)
    first, *_, last = film_frames(path)
    assert last.notes == (TONE_MAPPED,)
    mapped_HWC = first.rgb(upscale=1)
    expected_HWC = np.asarray(Image.open(reference)).astype(int)
    assert np.abs(mapped_HWC - expected_HWC).mean() < 2
    # Read as plain levels, the picture would be another one.
    plain_HWC = first.picture.to_ndarray(format="rgb24")
    assert np.abs(plain_HWC - expected_HWC).mean() > 5
    small_HWC = first.thumbnail(side=16)[:, :, ::-1]
    assert np.abs(small_HWC.mean((0, 1)) - mapped_HWC.mean((0, 1))).max() < 3


def test_an_ffmpeg_without_the_filter_refuses_the_film_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "hdr.mkv", transfer="smpte2084")
    real = subprocess.run

    def without_zscale(command: tuple[str, ...], **given: Any) -> Any:
        return real([part.replace("zscale", "nozscale") for part in command], **given)

    monkeypatch.setattr(tone_mapping.subprocess, "run", without_zscale)
    tone_mapping._cube.cache_clear()
    tone_mapping._mapper.cache_clear()
    frame = next(film_frames(path))
    with pytest.raises(
        FilmError, match=r"FFmpeg's zscale or tonemap fails \(.+\); convert the film to BT\.709"
    ):
        frame.rgb(upscale=1)
