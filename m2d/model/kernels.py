"""Chooses torch's attention kernel for a device and a dtype, once: torch's default may change with a version.

Owns the order of preference and the probe. m2d's plans need no mask, so every kernel qualifies; on a GPU they
differ by up to a third of a step. FlashAttention-3 and others come through diffusers instead, whose
`transformer.set_attention_backend("_flash_3")` overrides the kernel pinned here.
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
    """Return the kernels, fastest first: cuDNN from Hopper on, FlashAttention-2 on older GPUs."""
    fused = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]
    if capability < _HOPPER:
        fused.reverse()
    return (*fused, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


def choose_kernel(device: torch.device, dtype: torch.dtype, head_dim: int) -> SDPBackend | None:
    """Return the fastest kernel that runs on `device` in `dtype`; None on a CPU, which has only one.

    Raises:
        RuntimeError: No kernel runs.
    """
    if device.type != "cuda":
        return None
    for kernel in preferred_kernels(torch.cuda.get_device_capability(device)):
        if can_run(kernel, device, dtype, head_dim):
            return kernel
    raise RuntimeError(f"no attention kernel runs on {device} in {dtype}, not even the plain one")


def can_run(kernel: SDPBackend, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Run a kernel on a few tokens; torch raises an error, and warns, where it cannot run."""
    probe = torch.zeros(1, 1, 16, head_dim, device=device, dtype=dtype)
    try:
        attend(probe, probe, probe, kernel)
    except RuntimeError as error:
        logger.debug("attention kernel %s: %s", kernel.name, error)
        return False
    return True


def attend(q_BNQK: Tensor, k_BNLK: Tensor, v_BNLK: Tensor, kernel: SDPBackend) -> Tensor:
    """Attend without a mask, with this kernel and no other.

    Raises:
        RuntimeError: The kernel cannot run.
    """
    with sdpa_kernel(kernel):
        return nn.functional.scaled_dot_product_attention(q_BNQK, k_BNLK, v_BNLK)
