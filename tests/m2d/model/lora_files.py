"""LoRA files of every format, with the same random matrices in each; they fit the tiny transformer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from m2d.model.lora_file import LoraFile, LoraUse, read_lora
from tests.m2d.model.tiny_model import tiny_transformer

# Rank and alpha of each layer: every kind of layer, two ranks, three strengths.
LAYERS: Mapping[str, tuple[int, float]] = {
    "transformer_blocks.0.attn1.to_q": (2, 2.0),
    "transformer_blocks.0.attn1.to_k": (2, 2.0),
    "transformer_blocks.0.attn1.to_v": (2, 2.0),
    "transformer_blocks.0.attn1.to_out.0": (3, 1.5),
    "transformer_blocks.0.norm1.linear": (2, 2.0),
    "transformer_blocks.1.attn1.to_k": (2, 2.0),
    "transformer_blocks.1.norm2.linear": (2, 5.0),
    "transformer_blocks.1.ff.net.0.proj": (3, 1.5),
    "transformer_blocks.1.ff.net.2": (2, 2.0),
    "patch_embed.text_proj": (2, 2.0),
    "time_embedding.linear_1": (2, 2.0),
    "norm_out.linear": (2, 2.0),
    "proj_out": (2, 2.0),
}
Matrices = Mapping[str, tuple[Tensor, Tensor]]
SHAPES = {
    name.removesuffix(".weight"): tuple(weight.shape)
    for name, weight in tiny_transformer().state_dict().items()
    if name.endswith(".weight") and weight.ndim in (2, 4)
}


def matrices(seed: int = 0) -> Matrices:
    """Random (down, up) of every layer."""
    draws = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.randn(rank, SHAPES[name][1], generator=draws) * 0.1,
            torch.randn(SHAPES[name][0], rank, generator=draws) * 0.1,
        )
        for name, (rank, _) in LAYERS.items()
    }


def config() -> dict[str, object]:
    """What PEFT and diffusers store of these strengths: the most common ones, and patterns for the others."""
    return {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2.0,
        "target_modules": sorted(LAYERS),
        "rank_pattern": {name: rank for name, (rank, _) in LAYERS.items() if rank != 2},
        "alpha_pattern": {name: alpha for name, (_, alpha) in LAYERS.items() if alpha != 2.0},
    }


def write_diffusers(folder: Path, pairs: Matrices) -> Path:
    """As diffusers' `save_lora_weights` writes it."""
    path = folder / "pytorch_lora_weights.safetensors"
    facts = {f"transformer.{key}": value for key, value in config().items()}
    tensors = {f"transformer.{name}.lora_A.weight": down for name, (down, _) in pairs.items()}
    tensors |= {f"transformer.{name}.lora_B.weight": up for name, (_, up) in pairs.items()}
    save_file(tensors, path, {"format": "pt", "lora_adapter_metadata": json.dumps(facts)})
    return path


def write_peft(folder: Path, pairs: Matrices) -> Path:
    """As PEFT's `save_pretrained` writes it."""
    path = folder / "adapter_model.safetensors"
    (folder / "adapter_config.json").write_text(json.dumps(config()))
    tensors = {f"base_model.model.{name}.lora_A.weight": down for name, (down, _) in pairs.items()}
    save_file(
        tensors | {f"base_model.model.{name}.lora_B.weight": up for name, (_, up) in pairs.items()}, path
    )
    return path


def write_kohya(folder: Path, pairs: Matrices, *, prefix: str = "lora_unet_") -> Path:
    """As musubi-tuner writes it."""
    path = folder / "kohya.safetensors"
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        flat = prefix + name.replace(".", "_")
        tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        tensors[f"{flat}.alpha"] = torch.tensor(LAYERS[name][1])
    save_file(tensors, path, {"ss_network_dim": "2"})
    return path


def write_official(folder: Path, pairs: Matrices) -> Path:
    """As the training scripts of CogVideoX-Fun and Mask2DiT write it."""
    return write_kohya(folder, pairs, prefix="lora_unet__")


def write_dotted(folder: Path, pairs: Matrices) -> Path:
    """Names of kohya's matrices after dotted names of layers."""
    path = folder / "dotted.safetensors"
    tensors: dict[str, Tensor] = {}
    for name, (down, up) in pairs.items():
        layer = f"diffusion_model.{name}"
        tensors |= {f"{layer}.lora_down.weight": down, f"{layer}.lora_up.weight": up}
        tensors[f"{layer}.alpha"] = torch.tensor(LAYERS[name][1])
    save_file(tensors, path)
    return path


WRITERS: Mapping[str, Callable[[Path, Matrices], Path]] = {
    "diffusers": write_diffusers,
    "peft": write_peft,
    "kohya": write_kohya,
    "official": write_official,
    "dotted": write_dotted,
}


def opened(path: Path) -> LoraFile:
    """Read a file for the tiny transformer."""
    return read_lora(path, SHAPES)


def use_of(
    folder: Path, seed: int = 0, *, scenes: tuple[int, ...] | None = None, scale: float = 1.0
) -> LoraUse:
    """A LoRA of all layers in a folder of its own."""
    folder.mkdir(exist_ok=True)
    return LoraUse(file=opened(write_kohya(folder, matrices(seed))), scale=scale, scenes=scenes)
