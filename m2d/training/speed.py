"""Operations per sample, and the measured rate of matrix products on this hardware.

The log divides one by the other. `requirements` counts the same operations by tracing the model, which is
exact and takes seconds.
"""

# V video tokens, L all tokens

from __future__ import annotations

import functools
import time

import torch
from torch import nn

from m2d.layout import SceneLayout
from m2d.training.sharding import BLOCKS
from m2d.training.zero_shares import whole_like

# One multiplication and one addition per weight and row; the backward pass computes two products for each.
_OPERATIONS, _PASSES = 2, 3
# Large enough for the best rate, small enough to take a few milliseconds.
_SIDES = {"cpu": 1024, "cuda": 8192}
_TRIES = 5


def flops_per_sample(model: nn.Module, layout: SceneLayout) -> int:
    """Count a sample's floating-point operations, forward and backward, without recomputation.

    The model is a `SceneModel`, whole or sharded.
    """
    weights = dict(model.named_parameters())
    sizes = {name: whole_like(weight).shape for name, weight in weights.items()}
    # A frozen weight has no gradient of its own.
    products = sum(
        (_PASSES if weights[name].requires_grad else _PASSES - 1) * _rows(name, layout) * size.numel()
        for name, size in sizes.items()
        if len(size) >= 2
    )
    num_blocks = len(list(model.get_submodule(BLOCKS).children()))
    width = sizes[f"{BLOCKS}.0.norm1.norm.weight"].numel()
    last = layout.plan_for(tuple(range(layout.num_scenes)))
    pairs = sum(
        times * sum(map(len, call.queries)) * sum(map(len, call.keys))
        for times, plan in ((num_blocks - 1, layout.plan()), (1, last))
        for call in plan
    )
    # Queries times keys, and weights times values.
    return _OPERATIONS * (products + _PASSES * 2 * pairs * width)


def _rows(name: str, layout: SceneLayout) -> int:
    """Return the number of rows that a weight is multiplied with."""
    if ".norm" in name or name.startswith(("norm_out", "time_embedding")):
        return layout.num_scenes
    if name.startswith("patch_embed.text_proj"):
        return layout.num_text_tokens
    return layout.num_tokens if name.startswith(BLOCKS) else layout.num_video_tokens


@functools.lru_cache(maxsize=4)
def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the operations per second of a large matrix product: best of a few, once per process."""
    side = _SIDES[device.type]
    left, right = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    return _OPERATIONS * side**3 / min(_seconds(left, right) for _ in range(_TRIES + 1))


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    started_s = time.perf_counter()
    # `item` waits for the device.
    (left @ right)[0, 0].item()
    return time.perf_counter() - started_s
