"""Read from the variables of `accelerate launch` how processes share a training, and reject what m2d lacks.

Errors use the names of the configuration and the recipe; `processes` starts the processes, `zero` trains with
DeepSpeed.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from m2d.errors import BackendUnavailable
from m2d.training.recipe import TrainingRecipe

Sharing = Literal["none", "ddp", "fsdp2", "zero2", "zero3"]

_DDP = "recipes/training/accelerate-ddp.yaml"
_FSDP2 = "recipes/training/accelerate-fsdp2.yaml"
_ZERO = "recipes/training/accelerate-zero2.yaml and accelerate-zero3.yaml"
# `zero` uses parts of DeepSpeed that are not a public interface.
_SERIES = "0.19."
_STAGES: Mapping[str, Sharing] = {"2": "zero2", "3": "zero3"}
# Variable, its name in the configuration, values that mean off, and the setting to use instead.
_NOT_OURS = (
    ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "deepspeed_config_file", ("none",), "leave it out"),
    (
        "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE",
        "offload_optimizer_device",
        ("none",),
        "set none, or use fsdp2 with fsdp_offload_params: true",
    ),
    (
        "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE",
        "offload_param_device",
        ("none",),
        "set none, or use fsdp2 with fsdp_offload_params: true",
    ),
    (
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "gradient_accumulation_steps",
        ("1", "auto"),
        "set accumulate in the recipe",
    ),
    (
        "ACCELERATE_GRADIENT_CLIPPING",
        "gradient_clipping",
        ("none", "auto"),
        "set optimizer.grad_clip in the recipe",
    ),
    ("ACCELERATE_MIXED_PRECISION", "mixed_precision", ("no",), "set precision in the recipe"),
)


def asked_sharing(variables: Mapping[str, str]) -> Sharing:
    """Return how the launcher's configuration, in the environment, shares a training among processes.

    Raises:
        BackendUnavailable: The configuration has an unsupported setting.
    """
    if _is_set(variables, "ACCELERATE_USE_MEGATRON_LM"):
        raise BackendUnavailable(
            "distributed_type: MEGATRON_LM is not supported; FSDP2 shards weights, gradients and optimizer "
            f"state, too: use {_FSDP2}"
        )
    if _is_set(variables, "ACCELERATE_USE_DEEPSPEED"):
        return _asked_stage(variables)
    if not _is_set(variables, "ACCELERATE_USE_FSDP"):
        return "ddp"
    version = variables.get("FSDP_VERSION", "1")
    if version != "2":
        raise BackendUnavailable(
            f"fsdp_version: {version} is not supported; set fsdp_version: 2, as in {_FSDP2}"
        )
    return "fsdp2"


def refuse_for_deepspeed(recipe: TrainingRecipe, sharing: Sharing) -> None:
    """Reject a recipe that DeepSpeed cannot train, if `sharing` uses DeepSpeed.

    Raises:
        BackendUnavailable: The message names the field and a replacement.
    """
    if sharing not in _STAGES.values():
        return
    name, what = recipe.optimizer.name, f"DeepSpeed ({sharing})"
    if name == "muon":
        raise BackendUnavailable(
            f"optimizer.name: muon moves whole matrices, and {what} flattens weights; use adamw, or share by "
            f"{_FSDP2}"
        )
    if name != "adamw":
        raise BackendUnavailable(
            f"optimizer.name: {name} keeps its state in blocks, which {what} would cut; use adamw, or share "
            f"by {_DDP}"
        )
    if recipe.lora is not None:
        raise BackendUnavailable(
            f"lora: {what} keeps all weights in one precision, and adapters are small; share by {_DDP} or "
            f"{_FSDP2}"
        )
    if recipe.compile and sharing == "zero3":
        raise BackendUnavailable(
            f"compile: {what} swaps weights in and out within the blocks; set compile: false, or share by "
            "recipes/training/accelerate-zero2.yaml"
        )


def _asked_stage(variables: Mapping[str, str]) -> Sharing:
    stage = variables.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "not set")
    if stage not in _STAGES:
        raise BackendUnavailable(f"zero_stage: {stage}: allowed: {', '.join(_STAGES)}, as in {_ZERO}")
    for variable, name, nothing, instead in _NOT_OURS:
        value = variables.get(variable, nothing[0])
        if value.lower() not in nothing:
            raise BackendUnavailable(f"{name}: {value} is not supported with DeepSpeed; {instead}")
    # With Accelerate's default for stage 3, true, transformers would also shard the text encoder, which runs
    # in the first process alone.
    if stage == "3" and variables.get("ACCELERATE_DEEPSPEED_ZERO3_INIT", "true").lower() != "false":
        raise BackendUnavailable(
            "zero3_init_flag must be false: only the transformer is sharded, as in "
            "recipes/training/accelerate-zero3.yaml"
        )
    return _STAGES[stage]


def _is_set(variables: Mapping[str, str], name: str) -> bool:
    return variables.get(name, "false").lower() in ("true", "1")


def prepare_deepspeed(device: Literal["cpu", "cuda"]) -> None:
    """Import DeepSpeed, check that it computes on `device`, and keep its log off standard output.

    Raises:
        BackendUnavailable: DeepSpeed is missing, has another version or uses another device.
    """
    if find_spec("deepspeed") is None:
        raise BackendUnavailable(
            "distributed_type: DEEPSPEED needs the package deepspeed; install it with `pip install "
            "'m2d[deepspeed]'`, or use recipes/training/accelerate-fsdp2.yaml"
        )
    found = version("deepspeed")
    if not found.startswith(_SERIES):
        raise BackendUnavailable(
            f"deepspeed {found} is installed, m2d works with {_SERIES}x; install it with `pip install "
            "'m2d[deepspeed]'`"
        )
    # DeepSpeed reads the variable when it is imported; without it, it picks a device itself.
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    # DeepSpeed logs to standard output, which is for m2d's results.
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    warnings.filterwarnings("ignore", message=".*_into_tensor` is deprecated", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", message=".*reduce_scatter_tensor` is deprecated", category=FutureWarning
    )
    theirs = deepspeed.get_accelerator().device_name()
    if theirs != device:
        raise BackendUnavailable(
            f"device: {device}, but DeepSpeed computes on {theirs}; unset the variable DS_ACCELERATOR"
        )
