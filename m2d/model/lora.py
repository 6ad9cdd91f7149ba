"""Low-rank adapters (Hu et al., arXiv 2106.09685): the layers they adapt and the file that diffusers loads.

Owns which layers have adapters, their seeded initialization and their file. PEFT implements the adapters;
diffusers attaches, merges and loads them.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor

from m2d.errors import BackendUnavailable
from m2d.model.lora_file import METADATA_KEY
from m2d.model.lora_parts import LoraPart
from m2d.model.scene_model import SceneModel

# The name that diffusers' `load_lora_weights` looks for in a folder.
FILE = "pytorch_lora_weights.safetensors"
_ADAPTER = "default"


class LoraSettings(Protocol):
    """Sizes and layers of adapters; `LoraRecipe` in `m2d.training.recipe_parts` documents the fields."""

    @property
    def rank(self) -> int: ...

    @property
    def alpha(self) -> float | None: ...

    @property
    def parts(self) -> tuple[LoraPart, ...]: ...

    @property
    def dropout(self) -> float: ...


def add_lora(model: SceneModel, settings: LoraSettings, *, seed: int = 0) -> None:
    """Attach adapters that do not change the output yet, and freeze all other weights.

    Args:
        model: Changed in place; the names in its state dict change, too.
        seed: Seeds the first matrix of each adapter; the second starts at zero.

    Raises:
        BackendUnavailable: PEFT is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise BackendUnavailable("lora: the package peft is not installed; pip install 'm2d[train]'")
    from peft import LoraConfig

    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.rank if settings.alpha is None else settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=[name for part in settings.parts for name in model.lora_modules[part]],
            ),
            adapter_name=_ADAPTER,
        )


def lora_weights(model: SceneModel) -> dict[str, Tensor]:
    """Return the adapters' weights by PEFT's names, without the name of the adapter."""
    from peft import get_peft_model_state_dict

    weights: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=_ADAPTER)
    return {name: weight.detach().clone() for name, weight in weights.items()}


def save_lora(model: SceneModel, folder: Path) -> Path:
    """Save the adapters in the format of diffusers' `load_lora_weights` and `load_lora_adapter`.

    Returns:
        The file, `pytorch_lora_weights.safetensors` in `folder`.
    """
    # A header with one entry: safetensors writes several in no fixed order.
    config = _in_order(model.peft_config[_ADAPTER].to_dict())
    facts = {f"transformer.{key}": value for key, value in config.items()}
    tensors = {f"transformer.{name}": weight.contiguous() for name, weight in lora_weights(model).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / FILE, {METADATA_KEY: json.dumps(facts, indent=2, sort_keys=True)})
    return folder / FILE


def _in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn sets into sorted lists, so that the same adapters give the same file."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def merge_lora(model: SceneModel) -> None:
    """Merge the adapters into the weights and remove them; the original names in the state dict return."""
    model.fuse_lora(adapter_names=[_ADAPTER], safe_fusing=True)
    model.unload_lora()
