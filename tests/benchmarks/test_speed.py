import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend

from benchmarks import speed
from benchmarks.accounting import block_flops, count_block
from benchmarks.cases import Case
from benchmarks.goals import GOALS, checked
from benchmarks.speed import Planned, attempt, case_trials, run_trial, table
from benchmarks.trials import Bench, Trial

CASE = Case(
    num_heads=1, num_layers=2, text_tokens=3, latent_frames=2, grid=(2, 3), text_width=8, time_width=8
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.make(CASE, "cpu", torch.float32)


@pytest.mark.parametrize("name", ["fixed", "block", "extension", "kept_context"])
def test_every_trial_compares_equal_results(bench: Bench, name: str) -> None:
    row = run_trial(getattr(bench, name)(1000.0), device="cpu", num_pairs=3)
    assert row["is_kept"] is True
    assert any("flash_attention_for_cpu" in kernel for kernel in row["attention_kernels"]["ours"])
    assert CASE.name in table([row])


@pytest.mark.long
def test_an_exported_graph_is_compared_with_eager(bench: Bench) -> None:
    row = run_trial(bench.exported(1000.0), device="cpu", num_pairs=3)
    assert row["is_kept"] is True
    # ONNX Runtime's own kernels: torch's profiler sees no attention of it.
    assert row["attention_kernels"]["ours"] == []


def test_a_fast_but_wrong_result_is_not_kept(bench: Bench) -> None:
    trial = bench.fixed(1000.0)
    wrong = replace(trial, ours=lambda: trial.baseline() + 1.0)
    row = run_trial(wrong, device="cpu", num_pairs=3)
    assert row["is_kept"] is False
    assert " NO " in table([row])


def test_a_missed_target_is_not_kept(bench: Bench) -> None:
    assert run_trial(bench.fixed(1e-9), device="cpu", num_pairs=3)["is_kept"] is False


def test_stock_diffusers_and_dense_masks_run_beside_it(bench: Bench) -> None:
    for trial in (bench.without_mask(), bench.attention("dense", None)):
        assert run_trial(trial, device="cpu", num_pairs=3)["is_kept"] is True


def test_a_model_without_the_mask_would_not_pass_for_equal(bench: Bench) -> None:
    # In half precision, too, whose tolerance is the widest.
    half = Bench.make(CASE, "cpu", torch.bfloat16)
    for each in (bench, half):
        missing = replace(each.without_mask(), tolerance=each.tolerance)
        assert run_trial(missing, device="cpu", num_pairs=3)["is_equal"] is False


def test_attention_is_compared_with_less_work_and_between_kernels(bench: Bench) -> None:
    assert run_trial(bench.text_cost(None), device="cpu", num_pairs=3)["relative_difference"] is None
    row = run_trial(bench.kernels(SDPBackend.FLASH_ATTENTION, SDPBackend.MATH), device="cpu", num_pairs=3)
    assert row["is_equal"] is True
    assert row["attention_kernels"]["ours"] != row["attention_kernels"]["baseline"]


def test_the_block_that_is_timed_has_the_operations_that_are_counted() -> None:
    case = replace(CASE, num_heads=2, grid=(8, 8))
    counts = count_block(case).ours
    assert block_flops(case) == pytest.approx(counts.attention_flops + counts.matmul_flops, rel=0.01)


def test_a_trial_that_fails_leaves_a_row_that_says_why(bench: Bench) -> None:
    def fail() -> Trial:
        raise RuntimeError("no kernel\nat all")

    row = attempt(Planned("some-trial", fail), device="cpu", num_pairs=3)
    assert (row["key"], row["is_kept"], row["error"]) == ("some-trial", False, "RuntimeError: no kernel")
    kept = attempt(Planned("other", lambda: bench.block()), device="cpu", num_pairs=3)
    assert kept["error"] is None
    assert "no kernel" in table([row, kept])


def run_main(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> dict[str, Any]:
    monkeypatch.setitem(speed.CASES, "tiny", CASE)  # type: ignore[arg-type]  # a dict
    monkeypatch.setattr(speed, "roofline", lambda *_: {"matmul_flop_per_s": 1e12})
    monkeypatch.setattr(
        sys, "argv", ["speed", "--case", "tiny", "--pairs", "3", "--json", str(out), *arguments]
    )
    speed.main()
    report: dict[str, Any] = json.loads(out.read_text())
    return report


def test_without_time_everything_is_left_and_nothing_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = run_main(monkeypatch, tmp_path / "speed.json", "--max-seconds", "-1")
    planned = [planned.key for planned in case_trials("tiny", "cpu", torch.float32)]
    assert report["not_yet_run"][: len(planned)] == planned
    assert (report["trials"], report["is_kept"]) == ([], False)


def test_what_was_measured_is_written_before_the_next_trial_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bench: Bench
) -> None:
    out = tmp_path / "speed.json"

    def interrupted() -> Trial:
        raise KeyboardInterrupt

    trials = [Planned("block-eager", lambda: bench.block()), Planned("block-compiled", interrupted)]
    monkeypatch.setattr(speed, "case_trials", lambda *_: iter(trials))
    with pytest.raises(KeyboardInterrupt):
        run_main(monkeypatch, out)
    report = json.loads(out.read_text())
    assert [row["key"] for row in report["trials"]] == ["block-eager"]
    assert report["not_yet_run"][0] == "block-compiled"


def test_after_an_error_that_a_card_does_not_outlive_nothing_is_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "is_alive", lambda _: False)
    assert run_main(monkeypatch, tmp_path / "speed.json")["trials"] == []


def block_row(key: str, ratio: float, *, peak: int = 50, is_equal: bool = True) -> dict[str, Any]:
    return {
        "key": key,
        "error": None,
        "ratios": {"median": ratio},
        "seconds": [0.2, 0.25],
        "peak_bytes": {"ours": peak, "baseline": 100},
        "is_equal": is_equal,
    }


def test_goals_are_those_of_the_fastest_block_that_is_equal() -> None:
    rows = [
        block_row("block-eager", 0.8, peak=40),
        block_row("block-compiled", 0.7, is_equal=False),
        block_row("attention-text", 1.02),
        {"key": "attention-dense", "error": "RuntimeError: no"},
    ]
    checks = {check["name"]: check for check in checked(rows, flops=10**14, matmul_flop_per_s=8e14)}
    values = {name: (check["value"], check["holds"]) for name, check in checks.items()}
    assert values == {
        "block_time": (0.8, True),
        "block_peak": (0.4, True),
        "dense_time": (None, None),
        "text_cost": (pytest.approx(0.02), True),
        "matmul_share": (pytest.approx(0.625), True),
    }
    assert all(check["holds"] is None for check in checked([], flops=1, matmul_flop_per_s=1.0)), (
        "nothing was run"
    )


@pytest.mark.parametrize(("value", "holds"), [(0.54, False), (0.56, True)])
def test_a_share_has_to_be_reached_and_not_kept_below(value: float, holds: bool) -> None:
    share = next(goal for goal in GOALS if goal.name == "matmul_share")
    assert share.holds(value) is holds


def test_a_machine_without_video_packages_can_run_it() -> None:
    code = (
        "import sys\n"
        "for name in ('av', 'imageio_ffmpeg', 'cv2', 'sentencepiece', 'jinja2', 'peft'):\n"
        "    sys.modules[name] = None\n"
        "import benchmarks.speed\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
