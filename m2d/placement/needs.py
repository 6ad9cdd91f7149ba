"""What a network takes: its weights under every memory mode, and the activations and operations of a call.

Networks of two and three blocks are built and run on the meta device; all blocks but the first are alike, so
the others follow.
"""

# B batch, F latent frames, C channels, H W latent size, N scenes, L text tokens, D width

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from m2d.layout import SceneLayout
from m2d.model.execution import choose_execution
from m2d.placement.counting import Counts, count
from m2d.placement.modes import MemoryMode

Builder = Callable[[str, Mapping[str, Any]], nn.Module]
# Torchao keeps a float32 scale for every row; rows of a transformer's matrices have thousands of values.
_QUANTIZED_BYTES = 1.01
_FEW, _MORE = 2, 3


@dataclass(frozen=True, kw_only=True, slots=True)
class PartNeeds:
    """What one network takes on the device.

    Attributes:
        resident_bytes: Weights that are on the device at once, by memory mode.
        activation_bytes: Peak memory of a call above the weights.
        flops: Operations of a call.
    """

    resident_bytes: Mapping[MemoryMode, int]
    activation_bytes: int
    flops: int

    @property
    def weights_bytes(self) -> int:
        """Size of all weights."""
        return self.resident_bytes["full"]

    def peak_bytes(self, mode: MemoryMode) -> int:
        """Peak memory of a call."""
        return self.resident_bytes[mode] + self.activation_bytes

    def moved_bytes(self, mode: MemoryMode) -> int:
        """Weights that a call moves to the device."""
        return self.weights_bytes if mode in ("group-offload", "sequential") else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformerWork:
    """One call of a transformer.

    Attributes:
        config: The transformer's, as JSON, so that equal calls are counted once.
        latent_shape: (C, H, W) of a latent frame.
        is_quantized: Whether the linear layers' weights are quantized.
        quantized_bytes: Size of these weights, where a file decides it; None for one byte per weight.
    """

    config: str
    layout: SceneLayout
    latent_shape: tuple[int, int, int]
    batch_size: int
    dtype: torch.dtype
    targets: tuple[int, ...] | None = None
    is_quantized: bool = False
    quantized_bytes: int | None = None


class _Sizes(NamedTuple):
    """Bytes of a network's weights: all, those of linear layers, those of the largest layer."""

    total: int
    linear: int
    largest_leaf: int


class _Counted(NamedTuple):
    sizes: _Sizes
    counts: Counts


@lru_cache(maxsize=32)
def transformer_needs(work: TransformerWork, build: Builder) -> PartNeeds:
    """Count one call of a transformer."""
    config = json.loads(work.config)
    few, more = (_count_transformer(work, config, build, num_layers) for num_layers in (_FEW, _MORE))
    needs = _extrapolated(few, more, num_layers=int(config["num_layers"]))
    if not work.is_quantized:
        return needs
    return _quantized(needs, few.sizes, more.sizes, config["num_layers"], work)


@lru_cache(maxsize=8)
def text_needs(config: str, *, num_tokens: int, dtype: torch.dtype, build: Builder) -> PartNeeds:
    """Count encoding one prompt; `config` is the text encoder's, as JSON."""
    settings = json.loads(config)
    few, more = (
        _count_text(settings, build, num_layers, num_tokens=num_tokens, dtype=dtype)
        for num_layers in (_FEW, _MORE)
    )
    return _extrapolated(few, more, num_layers=int(settings["num_layers"]))


def weights_bytes(module: nn.Module, dtype: torch.dtype) -> int:
    """Return the size of a network's weights in a data type."""
    return sum(weight.numel() for weight in module.parameters()) * dtype.itemsize


def _count_transformer(
    work: TransformerWork, config: Mapping[str, Any], build: Builder, num_layers: int
) -> _Counted:
    model: Any = build("transformer", {**config, "num_layers": num_layers})
    nn.Module.to(model, work.dtype)
    layout, batch, dtype = work.layout, work.batch_size, work.dtype
    width = int(config["text_embed_dim"])
    with torch.device("meta"):
        latents_BFCHW = torch.empty(batch, sum(layout.latent_frames), *work.latent_shape, dtype=dtype)
        embeds_BLD = torch.empty(batch, layout.num_text_tokens, width, dtype=dtype)
        timesteps_BN = torch.zeros(batch, layout.num_scenes, dtype=torch.int64)
    inputs, execution = (latents_BFCHW, embeds_BLD, timesteps_BN), choose_execution(layout)
    counts = count(
        lambda: model(*inputs, layout=layout, targets=work.targets, execution=execution),
        held=[*model.parameters(), *model.buffers(), *inputs],
    )
    return _Counted(_sizes_of(model), counts)


def _count_text(
    config: Mapping[str, Any], build: Builder, num_layers: int, *, num_tokens: int, dtype: torch.dtype
) -> _Counted:
    model: Any = build("text_encoder", {**config, "num_layers": num_layers})
    nn.Module.to(model, dtype)
    ids_SL = torch.zeros(1, num_tokens, dtype=torch.int64, device="meta")
    counts = count(lambda: model(ids_SL).last_hidden_state, held=[*model.parameters(), ids_SL])
    return _Counted(_sizes_of(model), counts)


def _sizes_of(module: nn.Module) -> _Sizes:
    leaves = [sum(weight.nbytes for weight in leaf.parameters(recurse=False)) for leaf in module.modules()]
    linear = [layer.weight.nbytes for layer in module.modules() if isinstance(layer, nn.Linear)]
    return _Sizes(
        total=sum(weight.nbytes for weight in module.parameters()),
        linear=sum(linear),
        largest_leaf=max(leaves),
    )


def _extrapolated(few: _Counted, more: _Counted, *, num_layers: int) -> PartNeeds:
    others = num_layers - _FEW
    block = more.sizes.total - few.sizes.total
    total = few.sizes.total + others * block
    return PartNeeds(
        resident_bytes={
            "full": total,
            "model-offload": total,
            # One block computes while the next one is copied.
            "group-offload": min(total - (num_layers - 2) * block, total),
            "sequential": few.sizes.largest_leaf,
        },
        activation_bytes=max(few.counts.peak_bytes, more.counts.peak_bytes),
        flops=few.counts.flops + others * (more.counts.flops - few.counts.flops),
    )


def _quantized(
    needs: PartNeeds, few: _Sizes, more: _Sizes, num_layers: int, work: TransformerWork
) -> PartNeeds:
    """Return the needs with the linear layers' weights as they are stored when quantized."""
    linear = few.linear + (num_layers - _FEW) * (more.linear - few.linear)
    stored = work.quantized_bytes or int(linear / work.dtype.itemsize * _QUANTIZED_BYTES)
    saved = max(linear - stored, 0)
    resident = dict(needs.resident_bytes)
    for mode in ("full", "model-offload"):
        resident[mode] -= saved
    # Two blocks of all are on the device.
    resident["group-offload"] -= int(saved * min(2 / num_layers, 1.0))
    return PartNeeds(
        resident_bytes=resident,
        # A layer's weights are turned back into the data type while it computes.
        activation_bytes=needs.activation_bytes + few.largest_leaf,
        flops=needs.flops,
    )
