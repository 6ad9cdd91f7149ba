"""Do all backends make the same film? `m2d verify` on a story, with every backend that works here.

Run: `python -m benchmarks.same_film [STORY] [--device cuda --dtype bfloat16]`, minutes the first time: graphs
that are missing are exported. Writes `benchmarks/results/same_film.json` and fails if the film of a backend
differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine
from m2d.files import write_json

STORY = Path(__file__).parents[1] / "recipes" / "stories" / "first-snow.yaml"
RESULTS = Path(__file__).parent / "results" / "same_film.json"


def verify_command(story: Path, *, device: str, dtype: str) -> list[str]:
    """Return the command that compares all backends that work on `device`."""
    options = ["--export", "--json", "--device", device, "--dtype", dtype]
    return [sys.executable, "-m", "m2d", "verify", str(story), *options]


def summarize(report: dict[str, Any], *, story: Path, machine: dict[str, object]) -> dict[str, Any]:
    """Return the report of `m2d verify` without single steps, with story and machine."""
    backends = [
        {name: value for name, value in backend.items() if name != "steps"}
        | {"num_steps": len(backend["steps"])}
        for backend in report["backends"]
    ]
    return {**report, "backends": backends, "story": story.name, "machine": machine}


def main() -> int:
    """Compare, write the figures and report whether all films are the same."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("story", nargs="?", type=Path, default=STORY)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    command = verify_command(given.story, device=given.device, dtype=given.dtype)
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not ended.stdout:
        return ended.returncode or 1
    report = summarize(json.loads(ended.stdout), story=given.story, machine=describe_machine(given.device))
    write_json(given.out, report)
    for backend in report["backends"]:
        sys.stdout.write(f"{backend['name']}: {backend['state']}, {backend['max_relative_error']}\n")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
