"""Checks that a graph computes what the eager model computes, before its artifact is published.

Owns the inputs, the measure and the limits; the caller runs the graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from m2d.backend import DTypeName
from m2d.errors import ExportError

if TYPE_CHECKING:
    from torch import Tensor

    from m2d_backends.baked import BakedTransformer

# Largest difference as a share of the largest output. float32: the project's limit for every backend.
# bfloat16 and float16 round to 2^-8 and 2^-11 in each of some hundred operations; a few of these add up.
RELATIVE_ERRORS: dict[DTypeName, float] = {"float32": 1e-5, "bfloat16": 4e-2, "float16": 5e-3}
_SEEDS = (11, 12)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value; NaN counts as inf."""
    error = (actual.float() - expected.float()).abs().max() / expected.float().abs().max()
    return float(error) if bool(error.isfinite()) else float("inf")


def check_parity(
    baked: BakedTransformer,
    run: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    batch_sizes: Iterable[int],
    dtype: DTypeName,
    backend: str,
) -> float:
    """Compare a graph with the model it was traced from, on random inputs; return the largest error.

    Raises:
        ExportError: The error is above the limit, or the graph returns another shape.
    """
    import torch

    largest = 0.0
    for batch_size, seed in itertools.product(batch_sizes, _SEEDS):
        inputs = baked.example_inputs(batch_size, getattr(torch, dtype), baked.transformer.device, seed)
        with torch.inference_mode():
            expected, actual = baked(*inputs), run(*inputs)
        if actual.shape != expected.shape:
            raise ExportError(
                f"backend {backend!r}: the graph returns {tuple(actual.shape)}, eager {tuple(expected.shape)}"
            )
        largest = max(largest, relative_error(actual, expected))
    if largest > RELATIVE_ERRORS[dtype]:
        raise ExportError(
            f"backend {backend!r}: the graph differs from the eager model by {largest:.1e} of its largest "
            f"output, {RELATIVE_ERRORS[dtype]:.0e} is allowed in {dtype}; nothing was published"
        )
    return largest
