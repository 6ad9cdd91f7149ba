"""Run trials of all classes for some time and write what failed.

    python -m tests.attack --seconds 600 --seed 1 [--class model] [--out benchmarks/results/attack.json]

A failed trial is repeated by `--class NAME --trial NUMBER`, which leaves its folder for a look.
"""

from __future__ import annotations

import argparse
import collections
import json
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from m2d.files import write_json
from tests.attack.guard import load_everything
from tests.attack.originals import prepare
from tests.attack.trials import CLASSES, Result, run_trial

# Classes whose trials are quick are tried more often.
_OFTEN = ("path", "recipe", "path", "arguments", "environment", "path", "model", "film", "path", "recipe")


def attack(
    folder: Path, originals: Path, *, seconds: float, most: int, seed: int, names: list[str]
) -> dict[str, Any]:
    """Run trials in turn until the time or the number is reached; return counts and failures."""
    load_everything()
    prepare(originals)
    end, counts, codes = time.monotonic() + seconds, collections.Counter[str](), collections.Counter[int]()
    failures: list[dict[str, Any]] = []
    slowest, largest = 0.0, 0
    for number in range(most):
        if time.monotonic() > end:
            break
        name = names[number % len(names)]
        trial = seed * 1_000_000 + number
        where = folder / "trials" / str(trial)
        result = run_trial(name, originals=originals, case=where / "case", seed=trial)
        counts[name] += 1
        codes[result.ending.code] += 1
        slowest, largest = max(slowest, result.ending.seconds), max(largest, result.ending.peak_bytes)
        if result.wrong:
            failures.append(_described(name, trial, result))
            sys.stderr.write(f"{json.dumps(failures[-1])[:600]}\n")
        _remove(where)
    return {
        "seed": seed,
        "trials": dict(counts),
        "num_trials": counts.total(),
        "exit_codes": {str(code): count for code, count in sorted(codes.items())},
        "slowest_s": round(slowest, 2),
        "largest_bytes": largest,
        "failures": failures,
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "versions": {
            package: version(package) for package in ("m2d", "torch", "diffusers", "transformers", "av")
        },
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "what": "commands on hostile input; no traceback, hang, foreign file, socket or run code is allowed",
        "num_trials": sum(run["num_trials"] for run in runs),
        "num_failures": sum(len(run["failures"]) for run in runs),
        "slowest_s": max(run["slowest_s"] for run in runs),
        "largest_bytes": max(run["largest_bytes"] for run in runs),
        "runs": runs,
    }


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        # Trials close folders.
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def _described(name: str, trial: int, result: Result) -> dict[str, Any]:
    return {
        "class": name,
        "trial": trial,
        "command": [word[:200] for word in result.trial.words],
        "changed": result.trial.what,
        "wrong": result.wrong,
        "code": result.ending.code,
        "stderr": result.ending.stderr[-1500:],
    }


def main() -> int:
    """Run the corpus; exit with 1 if a trial failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--trials", type=int, default=1_000_000, help="at most this many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--class", dest="names", action="append", choices=sorted(CLASSES))
    parser.add_argument("--trial", type=int, help="repeat one trial of --class and keep its folder")
    parser.add_argument("--originals", type=Path, help="folder of the sound inputs, made if it is missing")
    parser.add_argument("--out", type=Path, help="results; those of earlier runs in it are kept")
    given = parser.parse_args()
    torch.set_num_threads(1)
    names = given.names or [*CLASSES, *_OFTEN]
    if given.trial is not None:
        folder = Path(tempfile.mkdtemp(prefix="attack-"))
        originals = prepare(folder / "originals")
        result = run_trial(names[0], originals=originals, case=folder / "case", seed=given.trial)
        sys.stdout.write(f"{json.dumps(_described(names[0], given.trial, result), indent=1)}\n{folder}\n")
        return int(bool(result.wrong))
    with tempfile.TemporaryDirectory(prefix="attack-") as path:
        folder = Path(path)
        originals = given.originals or folder / "originals"
        report = attack(
            folder, originals, seconds=given.seconds, most=given.trials, seed=given.seed, names=names
        )
    if given.out:
        runs = json.loads(given.out.read_text())["runs"] if given.out.exists() else []
        write_json(given.out, _summary([*runs, report]))
    sys.stdout.write(f"{report['num_trials']} trials, {len(report['failures'])} failed\n")
    return int(bool(report["failures"]))


if __name__ == "__main__":
    sys.exit(main())
