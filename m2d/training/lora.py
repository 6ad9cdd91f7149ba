"""Low-rank adapters: what of the transformer they reach, and the file that diffusers loads.

Owns where adapters sit, their seeded start and their file. The adapters themselves are PEFT's (Hu et al.,
arXiv 2106.09685), attached through diffusers; merging and loading are diffusers' own, too.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from m2d.errors import BackendUnavailable
from m2d.model.transformer import SceneTransformer
from m2d.training.recipe import LoraPart, LoraRecipe
from m2d.training.sharding import whole

# The name that diffusers' `load_lora_weights` looks for in a folder.
FILE = "pytorch_lora_weights.safetensors"
_ADAPTER = "default"
_MODULES: Mapping[LoraPart, tuple[str, ...]] = {
    "attention": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    "modulation": ("norm1.linear", "norm2.linear"),
}


def add_lora(model: SceneTransformer, recipe: LoraRecipe, *, seed: int = 0) -> None:
    """Attach adapters, which change nothing yet, and freeze every other weight.

    Args:
        model: Changed in place; its state dict's names change with it.
        seed: Of the adapters' first matrices; the second ones start at zero.

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
                r=recipe.rank,
                lora_alpha=recipe.rank if recipe.alpha is None else recipe.alpha,
                lora_dropout=recipe.dropout,
                target_modules=[name for part in recipe.parts for name in _MODULES[part]],
            ),
            adapter_name=_ADAPTER,
        )


def keep_frozen_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep the matrices that do not move in `dtype`, in place; autocast would turn them into it anyway."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(dtype)


def copy_sharing_frozen(model: SceneTransformer) -> SceneTransformer:
    """Return a copy that has weights of its own where they move, and the same ones where they do not."""
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, shared)


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the weights that do not move: what the adapters are adapters of.

    Sharded weights are gathered one at a time, by all processes together.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            values = whole(weight.detach()).cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def lora_weights(model: SceneTransformer) -> dict[str, Tensor]:
    """Return the adapters' weights by PEFT's names, without the adapter's own name."""
    from peft import get_peft_model_state_dict

    weights: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=_ADAPTER)
    return {name: weight.detach().clone() for name, weight in weights.items()}


def save_lora(model: SceneTransformer, folder: Path) -> Path:
    """Write the adapters as `load_lora_weights` and `load_lora_adapter` of diffusers read them.

    Returns:
        The file, `pytorch_lora_weights.safetensors` in `folder`.
    """
    from diffusers import CogVideoXPipeline

    CogVideoXPipeline.save_lora_weights(
        str(folder),
        transformer_lora_layers=lora_weights(model),
        transformer_lora_adapter_metadata=_in_order(model.peft_config[_ADAPTER].to_dict()),
    )
    return folder / FILE


def _in_order(config: Mapping[str, Any]) -> dict[str, Any]:
    """Turn sets into sorted lists: the same adapters give the same file."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def merge_lora(model: SceneTransformer) -> None:
    """Add the adapters' updates to the weights and take the adapters away; names are the stock ones again."""
    model.fuse_lora(adapter_names=[_ADAPTER], safe_fusing=True)
    model.unload_lora()
