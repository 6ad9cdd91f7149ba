"""Two processes on one machine, as `torchrun` or `accelerate launch` start them, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m2d.files import sha256_file
from m2d.training.log import read_log
from m2d.training.processes import ALONE
from m2d.training.state import find_checkpoint
from tests.m2d.training.two_processes import CASES, digest_of_frozen, film_made_in, make_films, train

ROOT = Path(__file__).parents[3]
# Machines that run tests are busy with other things.
LONGEST_S = 900


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all cases with two processes, and each with one."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.m2d.training.two_processes", str(folder)]
    # Accelerate's variables, as its launcher sets them for recipes/training/accelerate-fsdp2.yaml.
    launched = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    done = subprocess.run(
        command, cwd=ROOT, env=launched, capture_output=True, text=True, timeout=LONGEST_S, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("ddp", "ddp-saving"):
        case = CASES[name]._replace(sharing="none", changes={})
        train(case, folder, folder / f"alone-{name}", ALONE)
    return folder


def _losses(run: Path, *, kind: str) -> list[float]:
    return [event["loss"] for event in read_log(run) if event["event"] == kind]


def test_the_launchers_variables_choose_how_weights_are_shared(runs: Path) -> None:
    assert [(runs / f"sharing-{index}.txt").read_text() for index in (0, 1)] == ["fsdp2", "fsdp2"]


@pytest.mark.parametrize("sharing", ["ddp", "fsdp2"])
def test_two_processes_learn_as_one_with_the_same_batch(runs: Path, sharing: str) -> None:
    for kind, count in (("train", 50), ("held-out", 2)):
        ours, alone = _losses(runs / sharing, kind=kind), _losses(runs / "alone-ddp", kind=kind)
        assert len(ours) == len(alone) == count
        # Sums in another order differ in the last bits of float32; fifty steps make no more of it than this.
        assert ours == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("sharing", ["ddp", "fsdp2"])
def test_microbatches_and_recomputation_on_two_processes_learn_as_one_plain_step(
    runs: Path, sharing: str
) -> None:
    alone = _losses(runs / "alone-ddp-saving", kind="train")
    assert _losses(runs / f"{sharing}-saving", kind="train") == pytest.approx(alone, rel=1e-4)


def test_checkpoints_are_whole_however_weights_are_shared(runs: Path) -> None:
    paths = [find_checkpoint(runs / name).path for name in ("fsdp2", "alone-ddp")]
    for part in ("weights", "ema", "optimizer"):
        shared, alone = (load_file((path or Path()) / f"{part}.safetensors") for path in paths)
        assert shared.keys() == alone.keys()
        for name, tensor in shared.items():
            assert tensor.shape == alone[name].shape
            # Adam divides by moments near zero: an element may differ, the tensors may not.
            assert torch.dist(tensor, alone[name]) <= 0.01 * alone[name].norm() + 1e-6, name


def test_a_sharded_training_goes_on_to_the_same_bits(runs: Path) -> None:
    straight, stopped = (find_checkpoint(runs / name).path for name in ("fsdp2-saving", "fsdp2-stopped"))
    assert straight is not None
    assert stopped is not None
    for part in ("weights", "ema", "optimizer"):
        name = f"{part}.safetensors"
        assert sha256_file(stopped / name) == sha256_file(straight / name), part


def test_a_full_disk_of_one_process_ends_all_of_them_in_the_same_words(runs: Path) -> None:
    first, second = ((runs / f"complaint-{index}.txt").read_text() for index in (0, 1))
    assert first.startswith("1: ")
    assert "No space left on device" in first
    assert second == first.replace("1: ", "1: process 0 failed: ", 1)
    assert find_checkpoint(runs / "refused").path is None


def test_films_of_a_sharded_training_are_those_of_one_process(runs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    make_films(tmp_path, ALONE)
    assert film_made_in(runs / "films") == film_made_in(tmp_path)
    assert film_made_in(tmp_path)[0] == "step-00000003"


def test_adapters_of_sharded_weights_know_which_weights_they_belong_to(runs: Path, tmp_path: Path) -> None:
    digests = {(runs / f"frozen-{index}.txt").read_text() for index in (0, 1)}
    assert digests == {digest_of_frozen(tmp_path, ALONE)}
