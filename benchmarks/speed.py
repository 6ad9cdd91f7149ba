"""Speed of m2d: paired ratios against the official scheme and other baselines, with equal results.

Run: `python -m benchmarks.speed`, some minutes on two cores; on a GPU `python -m benchmarks.speed --device
cuda --case 5b-block --json OUT`. Writes `benchmarks/results/speed.json` after every trial, prints a table and
fails when a target is missed, two results differ, a trial fails or `--max-seconds` left one out.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.nn.attention import SDPBackend

from benchmarks.accounting import block_flops, count_block
from benchmarks.cases import CASES, MID, TINY, TINY_LONG
from benchmarks.goals import checked
from benchmarks.machine import attention_kernels, describe_machine, roofline
from benchmarks.trials import HEAD_DIM, Bench, Trial, largest_difference
from m2d.files import write_json
from m2d.model.kernels import choose_kernel
from m2d.tasks.pairing import compare

RESULTS = Path(__file__).parent / "results" / "speed.json"
SEED = 0


class Planned(NamedTuple):
    """A trial that is made only at its turn, because it holds models in memory."""

    key: str
    make: Callable[[], Trial]


def cpu_trials() -> Iterator[Planned]:
    """Return the trials of two CPU cores with their targets."""
    tiny, long, mid = (Bench.make(case, "cpu", torch.float32) for case in (TINY, TINY_LONG, MID))
    yield Planned("tiny-eager", lambda: tiny.fixed(0.95))
    yield Planned("mid-eager", lambda: mid.fixed(0.98))
    yield Planned("tiny-compiled", lambda: tiny.fixed(0.82, compiled=True))
    yield Planned("tiny-exported", lambda: tiny.exported(0.95))
    yield Planned("tiny-extension", lambda: tiny.extension(0.88))
    yield Planned("tiny-long-extension", lambda: long.extension(0.70))
    yield Planned("tiny-kept-context", lambda: tiny.kept_context(0.50))
    yield Planned("tiny-without-mask", lambda: tiny.without_mask())
    yield Planned("tiny-attention-dense", lambda: tiny.attention("dense", None))


def case_trials(name: str, device: str, dtype: torch.dtype) -> Iterator[Planned]:
    """Return the trials of one case on any device, most important first; `benchmarks.goals` has the targets.

    Dense masks and FlexAttention come last: one needs the most memory, the other compiles longest.
    """
    bench = Bench.make(CASES[name], device, dtype)
    cudnn, flash, efficient = (
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
    )
    yield Planned("block-eager", lambda: bench.block())
    yield Planned("attention-text", lambda: bench.text_cost(None))
    if device != "cpu":
        yield Planned("attention-cudnn-flash", lambda: bench.kernels(cudnn, flash))
    yield Planned("block-compiled", lambda: bench.block(compiled=True))
    yield Planned("attention-dense", lambda: bench.attention("dense", None))
    if device != "cpu":
        yield Planned("block-eager-flash", lambda: bench.block(official_kernel=flash))
    yield Planned("model-extension", lambda: bench.extension(None))
    yield Planned("model-kept-context", lambda: bench.kept_context(None))
    yield Planned("model-eager", lambda: bench.fixed(None))
    yield Planned("model-without-mask", lambda: bench.without_mask())
    if device != "cpu":
        yield Planned("attention-dense-efficient", lambda: bench.attention("dense", None, kernel=efficient))
        yield Planned("attention-flex", lambda: bench.attention("flex", None))


def kernel_name(device: str, dtype: torch.dtype) -> str:
    """Return the attention kernel that the eager backend pins."""
    kernel = choose_kernel(torch.device(device), dtype, HEAD_DIM)
    return "torch's choice" if kernel is None else kernel.name


def attempt(planned: Planned, *, device: str, num_pairs: int) -> dict[str, Any]:
    """Run a trial; if it fails, return a row with the reason, so that the others still run."""
    began_s = time.monotonic()
    try:
        row = run_trial(planned.make(), device=device, num_pairs=num_pairs)
    except Exception as error:  # Any error is recorded, and the command fails at the end.
        first_line = (str(error).strip().splitlines() or [""])[0]
        row = {"name": planned.key, "error": f"{type(error).__name__}: {first_line}", "is_kept": False}
    row = {"key": planned.key, **row, "took_s": time.monotonic() - began_s}
    # Free the tensors of the trial and of the frames of its error.
    gc.collect()
    if device != "cpu" and is_alive(device):
        torch.cuda.empty_cache()
    return row


def is_alive(device: str) -> bool:
    """Return whether a device still computes: after some errors a GPU fails until the process ends."""
    if device == "cpu":
        return True
    try:
        torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def run_trial(trial: Trial, *, device: str, num_pairs: int) -> dict[str, Any]:
    """Check and time one trial, with peak memory on a GPU."""
    difference = largest_difference(trial)
    is_equal = trial.tolerance is None or (difference is not None and difference <= trial.tolerance)
    with torch.inference_mode():
        result = compare(trial.ours, trial.baseline, num_pairs=num_pairs, num_warmups=1, device=device)
        peaks = _peaks(trial, device)
        kernels = {
            "ours": attention_kernels(trial.ours, device),
            "baseline": attention_kernels(trial.baseline, device),
        }
    is_kept = is_equal and (trial.target is None or result.ratios.median <= trial.target)
    return {
        "name": trial.name,
        "error": None,
        "target": trial.target,
        **asdict(result),
        "noise_floor": result.noise_floor,
        "verdict": result.verdict,
        "relative_difference": difference,
        "tolerance": trial.tolerance,
        "is_equal": is_equal,
        "attention_kernels": kernels,
        "peak_bytes": peaks,
        "is_kept": is_kept,
    }


def _peaks(trial: Trial, device: str) -> dict[str, int] | None:
    """Return the peak memory of calls above that of weights, inputs and tables."""
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
    """Return a line for each trial: target, measured, met; `peak` is a ratio, too."""
    lines = [f"{'target':>7} {'ratio':>6} {'noise':>6} {'peak':>6}  kept  what"]
    for row in rows:
        if row["error"] is not None:
            lines.append(f"{'-':>7} {'-':>6} {'-':>6} {'-':>6}  NO    {row['name']}: {row['error']}")
            continue
        target = "-" if row["target"] is None else f"{row['target']:.2f}"
        peaks = row["peak_bytes"]
        peak = "-" if peaks is None else f"{peaks['ours'] / peaks['baseline']:.3f}"
        ratios, floor = row["ratios"], row["noise_floor"]
        kept = "yes" if row["is_kept"] else "NO"
        claim = " (within the noise)" if row["verdict"] == "within the noise" else ""
        lines.append(
            f"{target:>7} {ratios['median']:6.3f} {floor:6.3f} {peak:>6}  {kept:4}  {row['name']}{claim}"
        )
    return "\n".join(lines) + "\n"


def checks_table(checks: list[dict[str, Any]]) -> str:
    """Return a line for each goal."""
    said = {None: "not run", True: "yes", False: "NO"}
    return "".join(
        f"{check['name']:>14}  {'-' if check['value'] is None else format(check['value'], '.3f'):>6}  "
        f"{check['bound']} {check['target']:.2f}  {said[check['holds']]}\n"
        for check in checks
    )


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
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=float("inf"),
        metavar="S",
        help="start no trial after so many seconds; those left out are listed",
    )
    arguments = parser.parse_args()
    if arguments.device != "cpu" and arguments.case is None:
        parser.error("--device cuda: say which --case")
    if arguments.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: torch finds no CUDA device")
    return arguments


def report_of(
    case: str | None, device: str, rows: list[dict[str, Any]], rates: dict[str, float], left: list[str]
) -> dict[str, Any]:
    """Return the results of the trials so far."""
    is_goal = device != "cpu" and case is not None and case.startswith("5b")
    checks = (
        []
        if case is None
        else checked(rows, flops=block_flops(CASES[case]), matmul_flop_per_s=rates["matmul_flop_per_s"])
    )
    return {
        "what": "paired ratios of times, ours over the baseline; checked to be equal first",
        "case": case,
        "device": device,
        "seed": SEED,
        "machine": describe_machine(device),
        "roofline": rates,
        "not_yet_run": left,
        # The goals are for a GPU and a full-size block; elsewhere they have no verdict.
        "is_kept": not left
        and all(row["is_kept"] for row in rows)
        and (not is_goal or all(check["holds"] for check in checks)),
        "checks": checks,
        "trials": rows,
    }


def main() -> int:
    """Check and time all trials, write and print the figures, and report whether all targets are met."""
    arguments = parse()
    began_s = time.monotonic()
    device: str = arguments.device
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    torch.manual_seed(SEED)
    rates = roofline(device, dtype)
    trials = list(cpu_trials() if arguments.case is None else case_trials(arguments.case, device, dtype))
    extra: dict[str, Any] = {"dtype": str(dtype).removeprefix("torch."), "kernel": kernel_name(device, dtype)}
    if arguments.case is None:
        counts = count_block()
        extra["block_5b_bytes_ratio"] = counts.ours.moved_bytes / counts.official.moved_bytes
        extra["block_5b_peak_ratio"] = counts.ours.peak_bytes / counts.official.peak_bytes
    rows: list[dict[str, Any]] = []
    left = [planned.key for planned in trials]
    # Write now and after every trial, so that a run that is cut short keeps its results.
    report = report_of(arguments.case, device, rows, rates, left) | extra
    write_json(arguments.json, report)
    for planned in trials:
        if time.monotonic() - began_s > arguments.max_seconds or not is_alive(device):
            break
        rows.append(attempt(planned, device=device, num_pairs=arguments.pairs))
        left.remove(planned.key)
        sys.stdout.write(table(rows[-1:]).split("\n", 1)[1])
        sys.stdout.flush()
        report = report_of(arguments.case, device, rows, rates, left) | extra
        write_json(arguments.json, report)
    sys.stdout.write("\n" + table(rows) + checks_table(report["checks"]))
    if left:
        sys.stdout.write(f"not run: {', '.join(left)}\n")
    return 0 if report["is_kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
