"""Time of `m2d generate` with an exported graph against eager: whole processes, from start to exit.

Run: `python -m benchmarks.cold_start [STORY] [--pairs 9] [--backend aot ...]`. Exports what the backends
need, then runs `m2d generate` with each and with eager in turn, and fails if the fastest takes more than 0.75
of the time of eager. Writes `benchmarks/results/cold_start.json`. All compute in float32;
in bfloat16 (`--dtype`), which eager takes by default on some CPUs, `onnx` cannot take part.

Cold means a new process that loads everything; the file system's cache is as earlier runs left it. All runs
get the first two CPU cores this process may use. A round is eager, every backend, eager: the ratio is a
backend's time over the mean of the two eager times, the noise the ratio of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoded_film import read_film
from benchmarks.startup import NUM_CORES, STORY, Run, run_m2d, use_cores
from m2d.files import write_json
from m2d.tasks.pairing import Comparison, Ratios

RESULTS = Path(__file__).parent / "results" / "cold_start.json"
EAGER = "eager"
BACKENDS = ("aot", "onnx")
LIMIT = 0.75


def export(backends: Sequence[str], story: Path, *, dtype: str) -> None:
    """Export what the backends need; it stays in the cache that `M2D_CACHE` names."""
    for backend in backends:
        run_m2d("export", "--backend", backend, "--recipe", str(story), "--dtype", dtype)


def generate(backend: str, story: Path, out: Path, *, dtype: str) -> Run:
    """Make the film once."""
    words = ("--backend", backend, "--dtype", dtype, "--out", str(out), "--force", "--json")
    return run_m2d("generate", str(story), *words)


def measure(
    backends: Sequence[str], story: Path, folder: Path, *, num_pairs: int, dtype: str
) -> dict[str, list[Run]]:
    """Run rounds of eager, every backend, eager; after one of each that fills Python's bytecode cache."""
    order = [EAGER, *backends, EAGER]
    for backend in order[:-1]:
        generate(backend, story, folder / f"{backend}.mp4", dtype=dtype)
    runs: dict[str, list[Run]] = {name: [] for name in (EAGER, *backends)}
    for _ in range(num_pairs):
        for backend in order:
            runs[backend].append(generate(backend, story, folder / f"{backend}.mp4", dtype=dtype))
    return runs


def compare(runs: Mapping[str, Sequence[Run]], backend: str) -> Comparison:
    """Compare a backend's wall times with those of eager in the same rounds."""
    eager = [run.wall_s for run in runs[EAGER]]
    befores, afters = eager[::2], eager[1::2]
    ours = [run.wall_s for run in runs[backend]]
    rounds = list(zip(ours, befores, afters, strict=True))
    return Comparison(
        ratios=Ratios.of([one / ((before + after) / 2) for one, before, after in rounds]),
        noise=Ratios.of([after / before for _, before, after in rounds]),
        num_pairs=len(rounds),
        seconds=(statistics.median(ours), statistics.median(befores)),
    )


def stages_of(film: Path) -> dict[str, float]:
    """Return the seconds of every stage from the run's record; the rest of the wall time is imports."""
    document = json.loads((film.with_suffix(".m2d") / "run.json").read_bytes())
    return {name: float(seconds) for name, seconds in document["timings_s"].items()}


def largest_difference(film: Path, other: Path) -> int:
    """Return the largest difference of a pixel of two decoded films, in levels; H.264 may enlarge it."""
    ours, theirs = (read_film(path).frames_PHWC.astype(np.int16) for path in (film, other))
    if ours.shape != theirs.shape:
        raise RuntimeError(f"{film.name} has frames {ours.shape}, {other.name} {theirs.shape}")
    return int(np.abs(ours - theirs).max())


def report_of(
    runs: Mapping[str, Sequence[Run]], backends: Sequence[str], folder: Path, *, story: Path
) -> dict[str, Any]:
    """Return all figures, and whether the fastest backend meets the limit."""
    rows = {}
    for backend in backends:
        result = compare(runs, backend)
        film = folder / f"{backend}.mp4"
        rows[backend] = {
            **asdict(result),
            "noise_floor": result.noise_floor,
            "verdict": result.verdict,
            "largest_difference": largest_difference(film, folder / f"{EAGER}.mp4"),
            "stages_s": stages_of(film),
            "cpu_s": statistics.median(run.cpu_s for run in runs[backend]),
        }
    best = min(rows, key=lambda name: float(rows[name]["ratios"]["median"]))
    return {
        "what": "m2d generate with an exported graph against eager, wall time of whole processes",
        "limit": LIMIT,
        "best": best,
        "best_ratio": rows[best]["ratios"]["median"],
        "is_kept": rows[best]["ratios"]["median"] <= LIMIT,
        "backends": rows,
        "eager": {
            "stages_s": stages_of(folder / f"{EAGER}.mp4"),
            "cpu_s": statistics.median(run.cpu_s for run in runs[EAGER]),
        },
        "story": story.name,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": os.environ.get("OMP_NUM_THREADS", "as torch chooses"),
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers")},
        "python": platform.python_version(),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("story", nargs="?", type=Path, default=STORY)
    parser.add_argument("--pairs", type=int, default=9, help="rounds")
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="default: all of them")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="OUT", help="where the figures go")
    arguments = parser.parse_args()
    if arguments.pairs < 3:
        parser.error(f"--pairs {arguments.pairs}: give 3 or more")
    return arguments


def main() -> int:
    """Measure, write the figures and report whether the limit is met."""
    arguments = parse()
    backends, story = tuple(arguments.backend or BACKENDS), arguments.story
    cores = use_cores(NUM_CORES)
    export(backends, story, dtype=arguments.dtype)
    with tempfile.TemporaryDirectory() as name:
        runs = measure(backends, story, Path(name), num_pairs=arguments.pairs, dtype=arguments.dtype)
        report = report_of(runs, backends, Path(name), story=story)
    report |= {"cores": cores, "dtype": arguments.dtype}
    arguments.json.parent.mkdir(exist_ok=True)
    write_json(arguments.json, report)
    for backend, row in report["backends"].items():
        ours_s, eager_s = row["seconds"]
        sys.stdout.write(
            f"{backend} / eager: {row['ratios']['median']:.3f} (noise {row['noise_floor']:.3f}, "
            f"{ours_s:.2f} s to {eager_s:.2f} s, pixels {row['largest_difference']}/255)\n"
        )
    return 0 if report["is_kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
