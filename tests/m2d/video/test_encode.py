"""The encoder's process: whatever ends it, or us, the reason is told and nothing of it stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from m2d.enlarging import UpscaleFilter
from m2d.errors import M2DError
from m2d.video import encode
from m2d.video.encode import EncoderFailed, Picture, encode_scene

FRAMES = np.zeros((20, 64, 64, 3), np.uint8)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The encoders that were started."""
    found: list[subprocess.Popen[bytes]] = []
    real = encode._feed

    def feed(process: subprocess.Popen[bytes], frames: Iterator[bytes]) -> None:
        found.append(process)
        real(process, frames)

    monkeypatch.setattr(encode, "_feed", feed)
    return found


def encode_beside(film: Path) -> None:
    encode_scene(FRAMES, Picture(width=64, height=64, upscale=4, fps=Fraction(8)), film=film)


def test_an_encoder_that_was_ended_is_reported_with_frames_still_to_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    real = encode._enlarged

    def ended_early(*given: object, **more: object) -> Iterator[bytes]:
        frames = real(*given, **more)  # type: ignore[arg-type]
        yield next(frames)
        started[0].kill()
        started[0].wait()
        # These fill the buffer, and stay in it when it cannot be written.
        yield from [b"\0" * 5000] * 2

    monkeypatch.setattr(encode, "_enlarged", ended_early)
    with pytest.raises(EncoderFailed, match=r"the encoder failed with exit code -9: it gave no reason"):
        encode_beside(tmp_path / "film.mp4")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError])
def test_a_failure_is_not_hidden_by_frames_that_cannot_be_written_any_more(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    started: list[subprocess.Popen[bytes]],
    failure: type[BaseException],
) -> None:
    def failing(*_: object, **__: object) -> Iterator[bytes]:
        started[0].kill()
        started[0].wait()
        yield b"\0" * 100
        raise failure

    monkeypatch.setattr(encode, "_enlarged", failing)
    with pytest.raises(failure):
        encode_beside(tmp_path / "film.mp4")


def test_ctrl_c_in_a_terminal_does_not_reach_the_encoder(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    real = encode._enlarged

    def watched(*given: object, **more: object) -> Iterator[bytes]:
        groups.append(os.getpgid(started[0].pid))
        yield from real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(encode, "_enlarged", watched)
    encode_beside(tmp_path / "film.mp4")
    assert groups[0] != os.getpgrp()


def drawing() -> np.ndarray:
    """Two frames PHWC of smooth shapes, as a VAE makes them."""
    y_H, x_W = np.arange(24)[:, None] / 24, np.arange(36)[None, :] / 36
    waves = [np.sin(5 * x_W + phase) * np.cos(4 * y_H) for phase in (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)]
    levels = np.stack(waves).reshape(2, 3, 24, 36).transpose(0, 2, 3, 1) * 100 + 128
    return np.asarray(levels, np.uint8)


@pytest.mark.parametrize("upscale", [2, 3, 4, 5])
def test_smoothly_enlarged_frames_come_back_as_they_were_but_for_a_few_levels(
    tmp_path: Path, upscale: int
) -> None:
    frames_PHWC = drawing()
    picture = Picture(width=36, height=24, upscale=upscale, fps=Fraction(8), upscale_filter="lanczos")
    found_PHWC = encode_scene(frames_PHWC, picture, film=tmp_path / "film.mp4").frames(upscale=upscale)
    errors = np.abs(found_PHWC.astype(int) - frames_PHWC)
    assert errors.mean() < 2.0


@pytest.mark.parametrize(("name", "is_smooth"), [("lanczos", True), ("nearest", False)])
def test_a_filter_is_smooth_or_repeats_pixels(tmp_path: Path, name: UpscaleFilter, is_smooth: bool) -> None:
    # Black left of white.
    frame_HWC = np.zeros((8, 8, 3), np.uint8)
    frame_HWC[:, 4:] = 255
    picture = Picture(width=8, height=8, upscale=6, fps=Fraction(8), upscale_filter=name)
    (large_HWC,) = encode_scene([frame_HWC], picture, film=tmp_path / "film.mp4").frames(upscale=1)
    between = (large_HWC[20, :, 1] > 40) & (large_HWC[20, :, 1] < 215)
    assert (between.sum() >= 3) == is_smooth


@pytest.mark.parametrize("program", ["/bin/false", "/nonexistent"])
def test_an_encoder_that_does_not_run_is_named(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
    with pytest.raises(M2DError, match=f"the video encoder {program} does not run"):
        encode.encoder_version()
