"""Check tensors that a file holds against those whose place they take.

A digest shows that a file is as it was written, not that m2d wrote it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def misfit(found: Tensor | None, *, dtype: torch.dtype, shape: Sequence[int]) -> str:
    """Return why a tensor is not one of finite numbers of this type and shape; empty if it is."""
    if found is None:
        return "is missing"
    if found.dtype != dtype or tuple(found.shape) != tuple(shape):
        return f"is {_described(found.dtype, found.shape)}, not {_described(dtype, shape)}"
    num_bad = found.numel() - int(torch.isfinite(found).sum())
    return f"is NaN or infinite in {num_bad:,} of {found.numel():,} values" if num_bad else ""


def _described(dtype: torch.dtype, shape: Sequence[int]) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"
