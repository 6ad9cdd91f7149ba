"""Waiting times of a new user: `m2d --help`, and a three-scene film from a cold start.

Run: `python -m benchmarks.startup [STORY]`. Writes `benchmarks/results/startup.json` and fails when a limit
is missed, or when the same story and seed do not give identical frames twice.

Cold means a new process that loads everything; the file system's cache is as earlier runs left it. All runs
get the first two CPU cores this process may use.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.decoded_film import read_film
from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "startup.json"
STORY = Path(__file__).parents[1] / "recipes" / "stories" / "first-snow.yaml"
NUM_CORES = 2
NUM_HELP_RUNS = 5
NUM_FILMS = 2
LIMITS = {"help_s": 0.2, "generate_s": 60.0, "generate_peak_bytes": 4 * 2**30}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One finished command.

    Attributes:
        wall_s: From start to exit.
        cpu_s: Processor time of all its processes; about the wall time on an idle machine.
        peak_bytes: Largest resident size of the process, or of one it waited for.
    """

    wall_s: float
    cpu_s: float
    peak_bytes: int


def run_m2d(*words: str) -> Run:
    """Run `m2d` with `words` in a new process and wait for it.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote to stderr.
    """
    command = [str(Path(sys.executable).with_name("m2d")), *words]
    with tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} exited with {process.returncode}:\n{said}")
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    cpu_s = usage.ru_utime + usage.ru_stime
    return Run(wall_s=wall_s, cpu_s=cpu_s, peak_bytes=usage.ru_maxrss * unit)


def measure_help() -> list[Run]:
    """Time `m2d --help` a few times, after one run that fills Python's bytecode cache."""
    run_m2d("--help")
    return [run_m2d("--help") for _ in range(NUM_HELP_RUNS)]


def measure_films(story: Path) -> tuple[list[Run], list[str]]:
    """Generate a story more than once; return the runs and the SHA-256 of each film's decoded frames."""
    runs, hashes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(NUM_FILMS):
            out = Path(folder) / f"film-{index}.mp4"
            runs.append(run_m2d("generate", str(story), "--out", str(out), "--force", "--json"))
            hashes.append(hashlib.sha256(read_film(out).frames_PHWC.tobytes()).hexdigest())
    return runs, hashes


def use_cores(count: int) -> int:
    """Confine this process and its children to `count` cores if possible; return the number they have."""
    if not hasattr(os, "sched_setaffinity"):
        return os.cpu_count() or 1
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    return len(os.sched_getaffinity(0))


def main() -> int:
    """Measure, write the figures and report whether all limits are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("story", nargs="?", type=Path, default=STORY)
    story: Path = parser.parse_args().story
    cores = use_cores(NUM_CORES)
    help_runs = measure_help()
    runs, hashes = measure_films(story)
    figures = {
        "help_s": statistics.median(run.wall_s for run in help_runs),
        "generate_s": max(run.wall_s for run in runs),
        "generate_peak_bytes": max(run.peak_bytes for run in runs),
    }
    is_reproducible = len(set(hashes)) == 1
    kept = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    report = {
        "what": "m2d --help (median) and m2d generate (worst run), each in a new process",
        "figures": figures,
        "limits": LIMITS,
        "kept": kept,
        "identical_frames": is_reproducible,
        "frames_sha256": hashes,
        "help_runs": [asdict(run) for run in help_runs],
        "generate_runs": [asdict(run) for run in runs],
        "story": story.name,
        "cores": cores,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers")},
        "python": platform.python_version(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_json(RESULTS, report)
    sys.stdout.write(f"{RESULTS}: {figures}, identical frames: {is_reproducible}\n")
    return 0 if is_reproducible and all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
