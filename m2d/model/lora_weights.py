"""Applying LoRAs to a transformer: fused into its weights, or beside the weights for single scenes.

`m2d.model.lora_file` decides which layers a file adapts; `m2d.model.lora` trains new ones.
"""

# O outputs of a layer, I inputs, R rank

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.model.lora_file import LoraFile, LoraLayer, LoraUse, lora_digest
from m2d.tensor_files import opened_tensors


class LowRank(NamedTuple):
    """The update of one layer: `up @ down`, scaled; float32, on the CPU."""

    down: Tensor
    up: Tensor

    def update(self, device: torch.device) -> Tensor:
        """Return the update with the shape of the layer's weight."""
        down, up = self.down.to(device), self.up.to(device)
        return (up.flatten(1) @ down.flatten(1)).reshape(len(up), *down.shape[1:])


class _OpenLora(NamedTuple):
    """A file of which tensors can be read, at a strength."""

    file: LoraFile
    tensors: Any
    scale: float

    def matrices(self, layer: LoraLayer) -> LowRank:
        """Read a layer's matrices; the second one holds the strength.

        Raises:
            CheckpointError: A value is not finite.
        """
        down, up = (self.tensors.get_tensor(key).float() for key in (layer.down, layer.up))
        alpha = self.tensors.get_tensor(layer.alpha).item() if isinstance(layer.alpha, str) else layer.alpha
        up = up * (self.scale * alpha / layer.divisor)
        if not (down.isfinite().all() and up.isfinite().all()):
            raise CheckpointError(f"{self.file.path}: {layer.module} has values that are not finite")
        return LowRank(down, up)


def fuse_loras(model: nn.Module, uses: Sequence[LoraUse]) -> None:
    """Add LoRAs to a model's weights; all updates of a weight are added in float32 and rounded once.

    Args:
        model: For inference; changed in place.
        uses: Those that hold for all scenes.

    Raises:
        CheckpointError: A file has changed since its header was read, or holds values that are not finite.
    """
    with ExitStack() as stack, torch.no_grad():
        opened = [_open(use, stack) for use in uses]
        layers = [{layer.module: layer for layer in each.file.layers} for each in opened]
        for module in sorted({name for each in layers for name in each}):
            owner = model.get_submodule(module)
            weight: nn.Parameter = owner.weight  # type: ignore[assignment]  # Module | Tensor to mypy
            fused = weight.float()
            for each, named in zip(opened, layers, strict=True):
                if module in named:
                    fused = fused + each.matrices(named[module]).update(weight.device)
            owner.weight = nn.Parameter(fused.to(weight.dtype), requires_grad=weight.requires_grad)


def low_ranks(use: LoraUse) -> Iterator[tuple[str, LowRank]]:
    """Yield the layers that a LoRA adapts, with their matrices; raises as `fuse_loras`."""
    with ExitStack() as stack:
        opened = _open(use, stack)
        for layer in use.file.layers:
            yield layer.module, opened.matrices(layer)


def _open(use: LoraUse, stack: ExitStack) -> _OpenLora:
    path = use.file.path
    try:
        is_same = lora_digest(path) == use.file.sha256
    except OSError:
        is_same = False
    if not is_same:
        raise CheckpointError(f"{path}: was removed or changed after the run was planned; start again")
    return _OpenLora(use.file, stack.enter_context(opened_tensors(path, "pt")), use.scale)
