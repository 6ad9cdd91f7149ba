"""Measures the memory in which films of two minutes and of two hours are extended by a scene.

Run: `python -m benchmarks.hours`. Writes `benchmarks/results/hours.json`; fails if hours take over 10 % more.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import imageio_ffmpeg

from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "hours.json"
DURATIONS_S = (120, 7200)
FPS = 8
MOST = 1.1
_PROMPT = "Beach at noon. Actor1 (round red body, no hat) waves."


class Extended(NamedTuple):
    """Largest memory and wall time of one `m2d extend`."""

    peak_bytes: int
    seconds: float


def extend(folder: Path, *, duration_s: int) -> Extended:
    """Extend an external video of this length by one scene, with the real command.

    Raises:
        RuntimeError: The command failed.
    """
    film = folder / f"{duration_s}.mp4"
    source = f"testsrc=size=64x64:rate={FPS}:duration={duration_s}"
    encoder = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-f", "lavfi", "-i", source]
    subprocess.run([*encoder, "-preset", "ultrafast", str(film)], check=True)
    asked = ["--cuts", "60", "--prompt", _PROMPT, "--steps", "1", "--quiet", "--json"]
    began_s = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "m2d", "extend", str(film), *asked], stdout=subprocess.DEVNULL
    ) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"m2d extend failed with {process.returncode}")
    peak_bytes = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Extended(peak_bytes, round(time.monotonic() - began_s, 1))


def measure() -> dict[str, Any]:
    """Extend both films; return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        found = [extend(Path(folder), duration_s=duration_s) for duration_s in DURATIONS_S]
    ratio = found[-1].peak_bytes / found[0].peak_bytes
    return {
        "what": "m2d extend on external videos of 64x64 pixels, 8 frames a second, by one scene",
        "runs": [
            {"duration_s": duration_s, "num_frames": duration_s * FPS, **each._asdict()}
            for duration_s, each in zip(DURATIONS_S, found, strict=True)
        ],
        "ratio": round(ratio, 4),
        "most": MOST,
        "holds": ratio <= MOST,
        "machine": f"{platform.system()} {platform.machine()}",
    }


def main() -> int:
    """Measure, write the figures, and exit with 1 if hours take more."""
    report = measure()
    write_json(RESULTS, report)
    sys.stdout.write(f"{RESULTS}: two hours take {report['ratio']:.3f} times the memory of two minutes\n")
    return 0 if report["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
