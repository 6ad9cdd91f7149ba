"""The shares that DeepSpeed's ZeRO-3 cuts weights into: each is the same stretch of the flattened weight.

Owns what is known about a single weight; `zero` makes and moves the shares.
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
    """A tensor that lies on the processes in parts which torch knows nothing of.

    Attributes:
        like: A tensor without values, of its shape and type.
        gather: Returns all of it; called by all processes together.
        put: Takes over a whole value; every process keeps its own part.
    """

    like: Tensor
    gather: Callable[[], Tensor]
    put: Callable[[Tensor], object]


def is_zero_share(tensor: Tensor) -> bool:
    """Tell whether a weight lies on the processes as ZeRO-3 shares; it looks empty then."""
    return hasattr(tensor, "ds_tensor")


def share_of(weight: Any) -> Tensor:
    """Return this process's share of a weight, flat, with padding; changes to it change the weight."""
    share: Tensor = weight.ds_tensor
    return share.detach()


def whole_like(weight: Any) -> Tensor:
    """Return a tensor without values, of a weight's whole shape and type."""
    shape = weight.ds_shape if is_zero_share(weight) else weight.shape
    return torch.empty(shape, dtype=weight.dtype, device="meta")


def cut(value: Tensor, weight: Any) -> Tensor:
    """Return the stretch of a whole value that belongs to this process's share, padded with zeros."""
    size = weight.ds_tensor.numel()
    start = size * dist.get_rank(weight.ds_process_group)
    mine = value.detach().reshape(-1)[start : start + size]
    return torch.nn.functional.pad(mine, (0, size - len(mine)))


def spread_weight(weight: Any) -> Spread:
    """Return a ZeRO-3 weight as what can be gathered and overwritten."""
    return Spread(
        like=whole_like(weight),
        gather=functools.partial(_gather, weight),
        put=functools.partial(_put, weight),
    )


def _gather(weight: Any) -> Tensor:
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        # A copy: what is gathered is given up again.
        whole: Tensor = weight.detach().clone()
    return whole


def _put(weight: Any, value: Tensor) -> None:
    share_of(weight).copy_(cut(value, weight))
