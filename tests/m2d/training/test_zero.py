"""Two processes that share a training by DeepSpeed's ZeRO, against one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m2d.files import sha256_file
from m2d.training.log import read_log
from m2d.training.processes import ALONE
from m2d.training.recipe import TrainingRecipe
from m2d.training.speed import flops_per_sample
from m2d.training.state import find_checkpoint, load_checkpoint, save_checkpoint
from m2d.training.zero import engine_config
from tests.m2d.training.conftest import tiny_recipe, tiny_setup, tiny_state, tiny_stories
from tests.m2d.training.two_processes import (
    ADAMW,
    DEEPSPEED_CASES,
    SAVING,
    Case,
    film_made_in,
    make_films,
    train,
)

ROOT = Path(__file__).parents[3]
# Machines that run tests are busy with other things.
LONGEST_S = 900
PARTS = ("weights", "ema", "optimizer")
needs_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")
both = pytest.mark.parametrize("sharing", ["zero2", "zero3"])


def test_deepspeed_is_told_what_the_recipe_says(make_recipe: Callable[..., TrainingRecipe]) -> None:
    recipe = make_recipe(batch_size=8, accumulate=2, precision="bfloat16", **ADAMW)
    config = engine_config(recipe, replace(ALONE, count=2, sharing="zero3"))
    assert (config["train_micro_batch_size_per_gpu"], config["gradient_accumulation_steps"]) == (2, 2)
    assert config["gradient_clipping"] == recipe.optimizer.grad_clip
    assert config["torch_autocast"]["enabled"] is True
    assert config["zero_optimization"]["stage"] == 3


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train all cases with two processes, and each kind with one."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.m2d.training.two_processes", str(folder), "deepspeed"]
    # Accelerate's variables, as its launcher sets them for recipes/training/accelerate-zero2.yaml.
    asked = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **asked},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for suffix in ("", "-saving"):
        case = DEEPSPEED_CASES[f"zero2{suffix}"]
        # Microbatches and recomputation are to change nothing, either.
        changes = {name: value for name, value in case.changes.items() if name not in SAVING}
        train(Case("none", case.stops, changes), folder, folder / f"alone{suffix}", ALONE)
    return folder


def _losses(run: Path, *, kind: str) -> list[float]:
    return [event["loss"] for event in read_log(run) if event["event"] == kind]


def _newest(run: Path) -> Path:
    path = find_checkpoint(run).path
    assert path is not None
    return path


@needs_deepspeed
def test_the_launchers_variables_choose_deepspeed(runs: Path) -> None:
    assert [(runs / f"sharing-{index}.txt").read_text() for index in (0, 1)] == ["zero2", "zero2"]


@needs_deepspeed
@both
def test_two_processes_learn_as_one_with_the_same_batch(runs: Path, sharing: str) -> None:
    for kind, count in (("train", 50), ("held-out", 2)):
        ours, alone = _losses(runs / sharing, kind=kind), _losses(runs / "alone", kind=kind)
        assert len(ours) == len(alone) == count
        # Sums in another order differ in the last bits of float32; fifty steps make no more of it than this.
        assert ours == pytest.approx(alone, rel=1e-4)


@needs_deepspeed
@both
def test_microbatches_and_recomputation_learn_as_one_plain_step(runs: Path, sharing: str) -> None:
    alone = _losses(runs / "alone-saving", kind="train")
    assert _losses(runs / f"{sharing}-saving", kind="train") == pytest.approx(alone, rel=1e-4)


@needs_deepspeed
# ZeRO-3 has a linear layer of its own, which rounds once more, before the bias: one part in 2^8.
@pytest.mark.parametrize(("sharing", "rel"), [("zero2", 1e-6), ("zero3", 2**-8)])
def test_bfloat16_computes_and_float32_travels_as_without_deepspeed(
    runs: Path, sharing: str, rel: float
) -> None:
    # Against two processes as well: each rounds its own half of a batch to bfloat16.
    plain = _losses(runs / "ddp-bfloat16", kind="train")
    assert _losses(runs / f"{sharing}-bfloat16", kind="train") == pytest.approx(plain, rel=rel)
    assert plain != pytest.approx(_losses(runs / "alone", kind="train")[: len(plain)], rel=1e-6)


@needs_deepspeed
@both
def test_checkpoints_are_those_of_one_process(runs: Path, sharing: str) -> None:
    for part in PARTS:
        shared, alone = (
            load_file(_newest(runs / name) / f"{part}.safetensors") for name in (sharing, "alone")
        )
        assert shared.keys() == alone.keys()
        for name, tensor in shared.items():
            assert (tensor.shape, tensor.dtype) == (alone[name].shape, alone[name].dtype)
            # Adam divides by moments near zero: an element may differ, the tensors may not.
            assert torch.dist(tensor, alone[name]) <= 0.01 * alone[name].norm() + 1e-6, name


@needs_deepspeed
@both
def test_a_stopped_training_goes_on_to_the_same_bits(runs: Path, sharing: str) -> None:
    straight, stopped = (_newest(runs / f"{sharing}-{how}") for how in ("saving", "stopped"))
    for part in PARTS:
        name = f"{part}.safetensors"
        assert sha256_file(stopped / name) == sha256_file(straight / name), part


@needs_deepspeed
def test_a_checkpoint_goes_from_one_way_of_sharing_to_another_unchanged(runs: Path) -> None:
    state = tiny_state(tiny_recipe(**ADAMW))
    load_checkpoint(_newest(runs / "carried-zero3"), state)
    save_checkpoint(runs / "carried-alone", state, facts={}, keep=1)
    for part in PARTS:
        name = f"{part}.safetensors"
        digests = {
            sha256_file(_newest(runs / run) / name)
            for run in ("zero3", "carried-zero2", "carried-zero3", "carried-alone")
        }
        assert len(digests) == 1, part


@needs_deepspeed
@both
def test_operations_are_counted_over_whole_weights(runs: Path, sharing: str, tmp_path: Path) -> None:
    setup = tiny_setup(tiny_recipe(), tiny_stories(tmp_path / "cache"), run=tmp_path)
    expected = flops_per_sample(tiny_state(tiny_recipe()).model, next(iter(setup.layouts.values())))
    assert int((runs / f"flops-{sharing}-1.txt").read_text()) == expected


@needs_deepspeed
@both
def test_an_infinite_gradient_of_one_process_moves_no_weight_of_any(runs: Path, sharing: str) -> None:
    for index in (0, 1):
        moved, complaint = (runs / f"diverged-{sharing}-{index}.txt").read_text().split("\n", 1)
        assert moved == "moved False"
        assert complaint.startswith("DivergedError: step 0: loss 0.")
        assert "gradient norm inf are not finite; the weights were left as they were" in complaint


@needs_deepspeed
def test_films_of_shared_out_weights_are_those_of_one_process(runs: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    make_films(tmp_path, ALONE)
    assert film_made_in(runs / "films") == film_made_in(tmp_path)
