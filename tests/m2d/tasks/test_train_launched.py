"""The whole command under launchers: locks, encoding, checkpoints and export by several processes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from m2d.training.log import read_log
from tests.m2d.model.tiny_model import build_tiny_model

ROOT = Path(__file__).parents[3]
LONGEST_S = 900
RECIPE = """\
title: launched
stage: sft
model: {model}
init: random
transformer: {{num_layers: 2, num_attention_heads: 2, attention_head_dim: 16, patch_size: 2,
  time_embed_dim: 16, max_text_tokens: 40}}
data: {{source: builtin:puppet, num_stories: 12, held_out: 4}}
video: {{num_frames: 9, height: 32, width: 32}}
num_scenes: 3
steps: 4
batch_size: 4
optimizer: {{name: adamw, lr: 1.0e-3}}
evaluation: {{num_samples: 4}}
log_every_steps: 1
export_dtype: float32
"""
ALONE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHARED = {
    "fsdp2": {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
    "zero2": {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"},
    "zero3": {
        "ACCELERATE_USE_DEEPSPEED": "true",
        "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
        "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false",
    },
}


def _launch(launcher: list[str], words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*launcher, "-m", "m2d", "train", *words],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize(
    "shared",
    [
        ["fsdp2"],
        pytest.param(
            ["zero2", "zero3"],
            marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
        ),
    ],
    ids=["torch", "deepspeed"],
)
def test_launched_trainings_leave_the_same_model_folder_and_talk_once(
    tmp_path: Path, shared: list[str]
) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(RECIPE.format(model=build_tiny_model(tmp_path / "parts")))
    common = [str(recipe), "--cache", str(tmp_path / "cache"), "--threads", "1", "-q"]
    losses, weights = {}, {}
    cases: list[tuple[str, list[str], dict[str, str]]] = [("alone", ALONE, {}), ("ddp", TWO, {})]
    cases += [(name, TWO, SHARED[name]) for name in shared]
    for name, launcher, variables in cases:
        done = _launch(launcher, [*common, "--out", str(tmp_path / name)], **variables)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count(str(tmp_path / name / "model")) == 1
        losses[name] = [event["loss"] for event in read_log(tmp_path / name)]
        path = tmp_path / name / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
        weights[name] = load_file(path)
    for name in ("ddp", *shared):
        assert losses[name] == pytest.approx(losses["alone"], rel=1e-4)
        assert {key: value.shape for key, value in weights[name].items()} == {
            key: value.shape for key, value in weights["alone"].items()
        }
    # Both processes end when the first cannot start, and say why once.
    again = _launch(TWO, [*common, "--out", str(tmp_path / "ddp")])
    assert again.returncode != 0
    assert again.stderr.count("holds a training") == 1
