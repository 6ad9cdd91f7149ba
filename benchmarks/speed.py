"""How fast m2d is: paired ratios against the official scheme and other baselines, all checked to be equal.

Run: `python -m benchmarks.speed`, some minutes on two cores. With a card, one command checks, times and
records it: `python -m benchmarks.speed --device cuda --case 5b-block --json OUT`. Writes
`benchmarks/results/speed.json`, prints a table and fails when a target is missed or two results differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.accounting import count_block
from benchmarks.cases import CASES, MID, TINY, TINY_LONG
from benchmarks.machine import attention_kernels, describe_machine, roofline
from benchmarks.trials import Bench, Trial, largest_difference
from m2d.files import write_json
from m2d.tasks.pairing import compare

RESULTS = Path(__file__).parent / "results" / "speed.json"
SEED = 0
MakeTrial = Callable[[], Trial]


def cpu_trials() -> Iterator[MakeTrial]:
    """What two cores have to reach."""
    tiny, long, mid = (Bench.make(case, "cpu", torch.float32) for case in (TINY, TINY_LONG, MID))
    yield lambda: tiny.fixed(0.95)
    yield lambda: mid.fixed(0.98)
    yield lambda: tiny.fixed(0.82, compiled=True)
    yield lambda: tiny.extension(0.88)
    yield lambda: long.extension(0.70)
    yield lambda: tiny.kept_context(0.50)
    yield lambda: tiny.without_mask()
    yield lambda: tiny.attention("dense", None)


def case_trials(name: str, device: str, dtype: torch.dtype) -> Iterator[MakeTrial]:
    """One case on any device; the targets are those for a card and a 5B block."""
    bench = Bench.make(CASES[name], device, dtype)
    is_goal = device != "cpu" and name.startswith("5b")
    yield lambda: bench.fixed(0.95 if is_goal else None)
    yield lambda: bench.fixed(0.85 if is_goal else None, compiled=True)
    yield lambda: bench.extension(None)
    yield lambda: bench.kept_context(None)
    yield lambda: bench.without_mask()
    yield lambda: bench.attention("dense", 0.60 if is_goal else None)
    if device != "cpu":
        yield lambda: bench.attention("flex", None)


def run_trial(trial: Trial, *, device: str, num_pairs: int) -> dict[str, Any]:
    """Check and time one trial; the peak memory too where a card counts it."""
    difference = largest_difference(trial)
    is_equal = trial.tolerance is None or difference <= trial.tolerance
    with torch.inference_mode():
        result = compare(trial.ours, trial.baseline, num_pairs=num_pairs, device=device)
        kernels = {
            "ours": attention_kernels(trial.ours, device),
            "baseline": attention_kernels(trial.baseline, device),
        }
    is_kept = is_equal and (trial.target is None or result.ratios.median <= trial.target)
    return {
        "name": trial.name,
        "target": trial.target,
        **asdict(result),
        "noise_floor": result.noise_floor,
        "verdict": result.verdict,
        "relative_difference": difference,
        "tolerance": trial.tolerance,
        "attention_kernels": kernels,
        "peak_bytes": _peaks(trial, device),
        "is_kept": is_kept,
    }


def _peaks(trial: Trial, device: str) -> dict[str, int] | None:
    """Memory of a call above what lay there before: weights, inputs, tables."""
    if device == "cpu":
        return None
    peaks = {}
    for name, run in (("ours", trial.ours), ("baseline", trial.baseline)):
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        with torch.inference_mode():
            run()
        torch.cuda.synchronize(device)
        peaks[name] = torch.cuda.max_memory_allocated(device) - before
    return peaks


def table(rows: list[dict[str, Any]]) -> str:
    """Target, measured and kept, a line each."""
    lines = [f"{'target':>7} {'ratio':>6} {'noise':>6}  kept  what"]
    for row in rows:
        target = "-" if row["target"] is None else f"{row['target']:.2f}"
        ratios, floor = row["ratios"], row["noise_floor"]
        kept = "yes" if row["is_kept"] else "NO"
        claim = " (within the noise)" if row["verdict"] == "within the noise" else ""
        lines.append(f"{target:>7} {ratios['median']:6.3f} {floor:6.3f}  {kept:4}  {row['name']}{claim}")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    parser.add_argument(
        "--case", choices=sorted(CASES), help="one case; default: all that two cores must reach"
    )
    parser.add_argument("--pairs", type=int, default=9, help="paired runs of each trial")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="OUT", help="where the figures go")
    arguments = parser.parse_args()
    if arguments.device != "cpu" and arguments.case is None:
        parser.error("--device cuda: say which --case")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch finds no CUDA device")
    return arguments


def main() -> int:
    """Check and time every trial, write the figures, print the table, and tell whether all is kept."""
    arguments = parse()
    device: str = arguments.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(SEED)
    trials = cpu_trials() if arguments.case is None else case_trials(arguments.case, device, dtype)
    rows = []
    for make in trials:
        rows.append(run_trial(make(), device=device, num_pairs=arguments.pairs))
        sys.stdout.write(table(rows[-1:]).split("\n", 1)[1])
        sys.stdout.flush()
    counts, rates = count_block(), roofline(device, dtype)
    share = None
    if arguments.case and arguments.case.startswith("5b"):
        flops = counts.ours.attention_flops + counts.ours.matmul_flops
        seconds = min(rows[0]["seconds"][0], rows[1]["seconds"][0])
        share = CASES[arguments.case].num_layers * flops / seconds / rates["matmul_flop_per_s"]
    report = {
        "what": "paired ratios of times, ours over the baseline; checked to be equal first",
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "seed": SEED,
        "machine": describe_machine(device),
        "roofline": rates,
        "share_of_matmul_rate": share,
        "not_yet_run": [] if device != "cpu" else ["everything on a GPU"],
        "is_kept": all(row["is_kept"] for row in rows),
        "trials": rows,
        "block_5b_bytes_ratio": counts.ours.moved_bytes / counts.official.moved_bytes,
        "block_5b_peak_ratio": counts.ours.peak_bytes / counts.official.peak_bytes,
    }
    write_json(arguments.json, report)
    sys.stdout.write("\n" + table(rows))
    return 0 if report["is_kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
