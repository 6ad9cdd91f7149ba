"""LoRAs of single scenes: each one is added to the rows of its own scenes, beside the weights.

Owns the layers that do it and which rows belong to which LoRAs. A LoRA that holds for all scenes is fused
instead, in `m2d.model.lora_weights`.
"""

# B batch, L rows, I inputs, O outputs, R rank

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.activations import GELU
from torch import Tensor, nn

from m2d.errors import InputError
from m2d.model.lora_file import LoraUse
from m2d.model.lora_weights import LowRank, low_ranks

SceneLoras = tuple[tuple[int, ...], ...]
"""For each scene the LoRAs that hold for it, as places among those of single scenes; empty without any."""
RowLoras = tuple[tuple[tuple[int, ...], int], ...]
"""LoRAs and number of each of the consecutive groups of rows; empty where no scene has a LoRA of its own."""


def loras_by_scene(uses: Sequence[LoraUse], num_scenes: int) -> SceneLoras:
    """Return the LoRAs of each scene of a layout."""
    single = [use.scenes for use in uses if use.scenes is not None]
    if not single:
        return ()
    return tuple(
        tuple(place for place, scenes in enumerate(single) if scene in scenes) for scene in range(num_scenes)
    )


def row_loras(loras: SceneLoras, lengths: Sequence[int]) -> RowLoras:
    """Return the LoRAs of rows that lie one scene after the other, `lengths` rows of each."""
    return tuple(zip(loras, lengths, strict=True)) if loras else ()


class SceneLinear(nn.Module):
    """A linear layer, and LoRAs for some of its rows."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.downs = nn.ParameterDict()
        self.ups = nn.ParameterDict()

    def add(self, place: int, matrices: LowRank) -> None:
        """Add a LoRA; `place` is the one that `SceneLoras` names."""
        like = self.base.weight
        for stored, matrix in ((self.downs, matrices.down), (self.ups, matrices.up)):
            stored[str(place)] = nn.Parameter(matrix.to(like.device, like.dtype), requires_grad=False)

    def forward(self, rows_BLI: Tensor, loras: RowLoras = ()) -> Tensor:
        """Return rows_BLO.

        Raises:
            ValueError: It is not given which LoRAs hold for the rows.
        """
        if not loras:
            raise ValueError("loras: missing; this layer has LoRAs of single scenes")
        whole_BLO: Tensor = self.base(rows_BLI)
        sizes = [size for _, size in loras]
        pieces = (rows.split_with_sizes(sizes, dim=1) for rows in (rows_BLI, whole_BLO))
        groups = zip(loras, *pieces, strict=True)
        return torch.cat([self._group(places, rows, out) for (places, _), rows, out in groups], dim=1)

    def _group(self, places: tuple[int, ...], rows_BLI: Tensor, out_BLO: Tensor) -> Tensor:
        for place in places:
            name = str(place)
            if name in self.downs:
                reduced_BLR = nn.functional.linear(rows_BLI, self.downs[name])
                out_BLO = out_BLO + nn.functional.linear(reduced_BLR, self.ups[name])
        return out_BLO


def apply_linear(layer: nn.Module, rows_BLI: Tensor, loras: RowLoras) -> Tensor:
    """Run a layer that may have LoRAs of single scenes."""
    out_BLO: Tensor = layer(rows_BLI, loras) if isinstance(layer, SceneLinear) else layer(rows_BLI)
    return out_BLO


def apply_feed_forward(feed_forward: Any, rows_BLI: Tensor, loras: RowLoras) -> Tensor:
    """Run a feed-forward whose layers may have LoRAs of single scenes."""
    if not loras:
        return feed_forward(rows_BLI)  # type: ignore[no-any-return]  # nn.Module.__call__
    first, *others = feed_forward.net
    rows_BLI = first.gelu(apply_linear(first.proj, rows_BLI, loras))
    for layer in others:
        rows_BLI = apply_linear(layer, rows_BLI, loras)
    return rows_BLI


def add_scene_loras(model: Any, uses: Sequence[LoraUse]) -> None:
    """Put LoRAs of single scenes beside a model's layers, which `SceneLoras` then counts in this order.

    Args:
        model: For inference; changed in place.

    Raises:
        InputError: A LoRA adapts a layer whose rows do not belong to scenes.
        CheckpointError: As `fuse_loras`.
    """
    for place, use in enumerate(uses):
        for name, matrices in low_ranks(use):
            if not name.endswith(model.scene_lora_layers):
                raise InputError(
                    f"{use.file.path}: adapts {name}, as only a LoRA of all scenes can; leave out its scenes"
                )
            layer = model.get_submodule(name)
            if not isinstance(layer, SceneLinear):
                _check_feed_forward(model, name)
                layer = SceneLinear(layer)
                model.set_submodule(name, layer)
            layer.add(place, matrices)


def _check_feed_forward(model: Any, name: str) -> None:
    owner = model.get_submodule(name.rpartition(".")[0])
    if name.endswith("net.0.proj") and not isinstance(owner, GELU):
        raise InputError(f"{name}: LoRAs of single scenes need an activation of type GELU there")
