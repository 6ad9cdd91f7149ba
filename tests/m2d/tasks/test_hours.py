"""A film of hours is extended in the memory of a film of minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import pytest


def peak_bytes(folder: Path, *, duration_s: int) -> int:
    """The largest memory of `m2d extend` on an external video of this length, 8 frames a second."""
    film = folder / f"{duration_s}.mp4"
    source = f"testsrc=size=64x64:rate=8:duration={duration_s}"
    encoder = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-f", "lavfi", "-i", source]
    subprocess.run([*encoder, "-preset", "ultrafast", str(film)], check=True)
    prompt = "Beach at noon. Actor1 (round red body, no hat) waves."
    asked = ["--cuts", "60", "--prompt", prompt, "--steps", "1", "--quiet", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "m2d", "extend", str(film), *asked], stdout=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.long
def test_two_hours_take_the_memory_of_two_minutes(tmp_path: Path) -> None:
    minutes, hours = (peak_bytes(tmp_path, duration_s=duration_s) for duration_s in (120, 7200))
    assert hours <= 1.1 * minutes
