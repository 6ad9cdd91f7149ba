"""Muon with its orthogonalisation in a chosen precision, batched over matrices of one shape.

`torch.optim.Muon` always orthogonalises in bfloat16, matrix by matrix. On a CPU without bfloat16 arithmetic
that took 15.7 s for the 36 matrices of a six-layer, 256-wide transformer, against 0.5 s in float32 (one
thread, AVX2).
"""

# K matrices of one shape, R C rows and columns

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from m2d.training.sharding import like, local, whole_from

# Quintic coefficients of Keller Jordan's Muon, the defaults of torch.optim.Muon: steep at zero, and singular
# values end in about [0.5, 1.5].
_LINEAR, _CUBIC, _QUINTIC = 3.4445, -4.7750, 2.0315
_TINY = 1e-7
# Scales an orthogonal update to AdamW's usual RMS ("Muon is scalable for LLM training", arXiv 2502.16982).
_ADAMW_RMS = 0.2


def orthogonalize(matrices_KRC: Tensor, *, num_iterations: int = 5) -> Tensor:
    """Return matrices with the same singular vectors and singular values near one (Newton-Schulz).

    They are computed in the dtype of the given ones.
    """
    is_tall = matrices_KRC.shape[-2] > matrices_KRC.shape[-1]
    x = matrices_KRC.mT if is_tall else matrices_KRC
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=_TINY)
    for _ in range(num_iterations):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=_CUBIC, alpha=_QUINTIC)
        x = torch.baddbmm(x, polynomial, x, beta=_LINEAR)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with an orthogonalised update, for two-dimensional weights only.

    Follows `torch.optim.Muon(adjust_lr_fn="match_rms_adamw")`, so that learning rates carry over from AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Register matrices; `lr` is on AdamW's scale, `compute_dtype` the orthogonalisation's precision.

        Raises:
            ValueError: A weight is not a matrix.
        """
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._compute_dtype = compute_dtype
        for group in self.param_groups:
            for param in group["params"]:
                if param.ndim != 2:
                    raise ValueError(f"Muon moves matrices only, got a weight of shape {tuple(param.shape)}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]  # loss-free, as we call it
        """Update every weight that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure; compute gradients before the step")
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for param in group["params"]:
                if param.grad is not None:
                    by_shape.setdefault(param.shape, []).append(param)
            for params in by_shape.values():
                self._move(params, group)

    def _move(self, params: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = group["lr"], group["momentum"]
        weights = [local(param) for param in params]
        buffers = [local(self._momentum_buffer(param)) for param in params]
        grads = [local(param.grad) for param in params if param.grad is not None]
        torch._foreach_lerp_(buffers, grads, 1 - momentum)
        parts = torch._foreach_lerp(grads, buffers, momentum)
        # Orthogonalisation needs whole matrices: sharded ones are gathered, and each process keeps its part.
        update_KRC = torch.stack([whole_from(part, param) for part, param in zip(parts, params, strict=True)])
        update_KRC = orthogonalize(update_KRC.to(self._compute_dtype)).to(params[0].dtype)
        updates = [local(like(update, param)) for update, param in zip(update_KRC, params, strict=True)]
        scale = _ADAMW_RMS * math.sqrt(max(params[0].shape))
        if group["weight_decay"]:
            torch._foreach_mul_(weights, 1 - lr * group["weight_decay"])
        torch._foreach_add_(weights, updates, alpha=-lr * scale)

    def _momentum_buffer(self, param: Tensor) -> Tensor:
        state = self.state[param]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(param)
        buffer: Tensor = state["momentum_buffer"]
        return buffer
