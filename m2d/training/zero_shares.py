"""Shards of single weights under DeepSpeed's ZeRO-3: equal stretches of the flattened weight.

`zero` creates and updates the shards.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """A tensor sharded over the processes by DeepSpeed, unknown to torch.

    Attributes:
        like: A meta tensor of the whole shape and dtype.
        gather: Returns the whole tensor; all processes call it together.
        put: Stores a whole value; every process keeps its own shard.
    """

    like: Tensor
    gather: Callable[[], Tensor]
    put: Callable[[Tensor], object]


def is_zero_share(tensor: Tensor) -> bool:
    """Whether ZeRO-3 shards the weight, which then looks empty."""
    return hasattr(tensor, "ds_tensor")


def share_of(weight: Any) -> Tensor:
    """Return this process's shard of a weight, flat and padded; changing it changes the weight."""
    share: Tensor = weight.ds_tensor
    return share.detach()


def whole_like(weight: Any) -> Tensor:
    """Return a meta tensor of a weight's whole shape and dtype."""
    shape = weight.ds_shape if is_zero_share(weight) else weight.shape
    return torch.empty(shape, dtype=weight.dtype, device="meta")


def cut(value: Tensor, weight: Any) -> Tensor:
    """Return the stretch of a whole value for this process's shard, padded with zeros."""
    size = weight.ds_tensor.numel()
    start = size * dist.get_rank(weight.ds_process_group)
    mine = value.detach().reshape(-1)[start : start + size]
    return torch.nn.functional.pad(mine, (0, size - len(mine)))


def spread_weight(weight: Any) -> Spread:
    """Return a ZeRO-3 weight as a `Spread`."""
    return Spread(
        like=whole_like(weight),
        gather=functools.partial(_gather, weight),
        put=functools.partial(_put, weight),
    )


def _gather(weight: Any) -> Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        # Cloned, because the gathered weight is freed again.
        whole: Tensor = weight.detach().clone()
    return whole


def _put(weight: Any, value: Tensor) -> None:
    share_of(weight).copy_(cut(value, weight))
