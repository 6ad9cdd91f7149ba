"""Chooses torch's attention kernel on a device, once; a default may change with every version.

Owns the order of preference and the probe. No plan of m2d needs a mask, so every kernel qualifies; on a card
they differ by up to a third of a step. FlashAttention-3 and others come through diffusers instead:
`transformer.set_attention_backend("_flash_3")` goes before what is pinned here. Not yet run on a GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

logger = logging.getLogger(__name__)

_HOPPER = (9, 0)


def preferred_kernels(capability: tuple[int, int]) -> Sequence[SDPBackend]:
    """Kernels from the fastest on: cuDNN leads from Hopper on, FlashAttention-2 before."""
    fused = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    if capability < _HOPPER:
        fused.reverse()
    return (*fused, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def choose_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> SDPBackend | None:
    """Find the first preferred kernel that runs; None on a CPU, which has one."""
    if device.type != "cuda":
        return None
    for kernel in preferred_kernels(torch.cuda.get_device_capability(device)):
        if can_run(kernel, device, dtype, head_dim):
            return kernel
    raise RuntimeError(f"no attention kernel runs on {device} in {dtype}; the plain one always should")


def can_run(kernel: SDPBackend, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Try a kernel on a few tokens. Torch says no by an error, and by warnings that nobody needs."""
    probe = torch.randn(1, 1, 16, head_dim, device=device, dtype=dtype)
    try:
        attend(probe, probe, probe, kernel)
    except RuntimeError as error:
        logger.debug("attention kernel %s: %s", kernel.name, error)
        return False
    return True


def attend(q_BNQK: Tensor, k_BNLK: Tensor, v_BNLK: Tensor, kernel: SDPBackend) -> Tensor:
    """Let every query see every key by one kernel and no other.

    Raises:
        RuntimeError: The kernel cannot.
    """
    with sdpa_kernel(kernel):
        return nn.functional.scaled_dot_product_attention(q_BNQK, k_BNLK, v_BNLK)
