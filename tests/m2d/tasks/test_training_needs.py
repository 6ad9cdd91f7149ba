"""What a recipe will need: from its model's folder, or from published sizes before anything is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from m2d.errors import CheckpointError, InputError
from m2d.families.cogvideox.known_sizes import KNOWN_MODELS
from m2d.tasks.train import plan_needs
from m2d.tasks.training_recipe import load_training_recipe
from m2d.training.needs import TrainingNeeds
from tests.m2d.training.conftest import tiny_recipe


def recipe_file(tmp_path: Path, **changes: Any) -> Path:
    document = {**tiny_recipe().model_dump(mode="json"), **changes}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def cogvideox(tmp_path: Path, name: str = "CogVideoX-5b", **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "model": f"models/{name}",
        "init": f"models/{name}",
        "transformer": None,
        "video": {"num_frames": 49, "height": 480, "width": 720},
        "batch_size": 8,
        "precision": "bfloat16",
        "gradient_checkpointing": True,
        "optimizer": {"name": "adamw", "lr": 1e-5},
    }
    return recipe_file(tmp_path, **{**settings, **changes})


def needs_of(path: Path, **options: Any) -> TrainingNeeds:
    return plan_needs(load_training_recipe(path), **options)


@pytest.mark.parametrize(("name", "billions"), [("CogVideoX-2b", 1.69), ("CogVideoX-5b", 5.57)])
def test_a_published_model_is_planned_without_its_weights(tmp_path: Path, name: str, billions: float) -> None:
    needs = needs_of(cogvideox(tmp_path, name))
    assert round(needs.model.num_parameters / 1e9, 2) == billions
    assert needs.origin == f"published sizes of models/{name}, which is not on this machine"


def test_text_encoder_and_export_are_planned_in_their_own_data_types(tmp_path: Path) -> None:
    lora = {"rank": 8}
    needs = needs_of(cogvideox(tmp_path, lora=lora, export_dtype="bfloat16"))
    # T5-XXL's encoder has 4.76 billion weights, CogVideoX's VAE 0.2 billion, in float32 always.
    assert needs.text_encoder_bytes == 2 * 4_762_310_656
    assert round(needs.vae_bytes / 1e9, 1) == 0.9
    # Adapters are merged into a copy in the precision, and stored in two bytes.
    assert needs.export_bytes == 4 * needs.model.num_parameters


def test_the_embedded_model_is_planned_from_its_folder(tmp_path: Path) -> None:
    video = {"num_frames": 9, "height": 64, "width": 64}
    path = recipe_file(tmp_path, model="builtin:puppet", init="builtin:puppet", transformer=None, video=video)
    needs = needs_of(path)
    assert needs.origin == "model folder builtin:puppet"
    assert needs.model.tokens == 4 * 3 * (36 + 5 * 16)


def test_a_start_that_is_yet_to_be_trained_has_the_models_sizes(tmp_path: Path) -> None:
    needs = needs_of(cogvideox(tmp_path, init="runs/pretrain"))
    assert round(needs.model.num_parameters / 1e9, 2) == 5.57
    assert needs.origin == (
        "published sizes of models/CogVideoX-5b, which is not on this machine; "
        "runs/pretrain, where it starts, is not there yet"
    )


def test_a_start_that_was_trained_has_its_own_sizes(tmp_path: Path) -> None:
    config = {**KNOWN_MODELS["cogvideox-2b"].transformer, "num_layers": 3}
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000007"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(json.dumps({"step": 7, "transformer": config}))
    needs = needs_of(cogvideox(tmp_path, init=str(tmp_path / "run")))
    assert (needs.model.num_blocks, needs.origin) == (3, f"run folder {tmp_path / 'run'}")


@pytest.mark.long
def test_more_devices_share_the_batch_and_what_their_strategy_shares(tmp_path: Path) -> None:
    path = cogvideox(tmp_path)
    one, eight = (
        needs_of(path),
        needs_of(path, num_devices=8, strategy="fsdp2"),
    )
    assert (one.microbatch, eight.microbatch) == (8, 1)
    assert eight.tokens_per_step == one.tokens_per_step
    assert eight.flops_per_step == pytest.approx(one.flops_per_step, rel=1e-6)
    assert eight.memory.weights == -(-one.memory.weights // 8)
    assert eight.memory.activations < one.memory.activations / 7


@pytest.mark.long
def test_adapters_keep_the_frozen_weights_in_half_the_bytes(tmp_path: Path) -> None:
    full, adapted = (needs_of(cogvideox(tmp_path, lora=lora)).memory.weights for lora in (None, {"rank": 16}))
    assert adapted == pytest.approx(full / 2, rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "magic"}, "^strategy magic: allowed: ddp, zero2, zero3, fsdp2"),
        ({"num_devices": 3}, "batch_size: 8 samples cannot be shared evenly by 3 devices with accumulate 1"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        needs_of(cogvideox(tmp_path), **options)


def test_a_model_that_is_neither_here_nor_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="models/Mystery-9b"):
        needs_of(cogvideox(tmp_path, "Mystery-9b"))
