from dataclasses import replace

import pytest
import torch

from benchmarks.cases import Case
from benchmarks.speed import run_trial, table
from benchmarks.trials import Bench

CASE = Case(
    num_heads=1, num_layers=2, text_tokens=3, latent_frames=2, grid=(2, 3), text_width=8, time_width=8
)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.make(CASE, "cpu", torch.float32)


@pytest.mark.parametrize("name", ["fixed", "extension", "kept_context"])
def test_every_trial_compares_equal_results(bench: Bench, name: str) -> None:
    row = run_trial(getattr(bench, name)(1000.0), device="cpu", num_pairs=3)
    assert row["is_kept"] is True
    assert any("flash_attention_for_cpu" in kernel for kernel in row["attention_kernels"]["ours"])
    assert CASE.name in table([row])


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
