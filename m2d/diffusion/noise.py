"""Counter-based randomness: a draw depends on its seed, purpose, step and scene, not on earlier draws.

Owns how these four become a generator and noise; does not choose seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *, purpose: str, step: int = 0, scene: int = 0) -> torch.Generator:
    """Return a new CPU generator for exactly one draw.

    The same arguments give the same stream on every machine. A run that resumes at step k therefore draws the
    same numbers as the uninterrupted run, and a checkpoint stores no generator state.

    Args:
        seed: The user's seed, any integer.
        purpose: Use of the draw, such as `initial noise`; separates unrelated draws of one step.
        step: Denoising or training step, from 0.
        scene: Index of the scene, from 0.
    """
    name = f"m2d\0{purpose}\0{seed}\0{step}\0{scene}".encode()
    # The CPU generator keeps only 32 bits of its seed.
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name).digest()[:4], "little"))


def draw_noise(
    shape: Sequence[int],
    *,
    seed: int,
    purpose: str,
    step: int = 0,
    scene: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw standard normal float32 noise of `shape` on the CPU, so that it is the same on every `device`.

    Other arguments are those of `generator`.
    """
    stream = generator(seed, purpose=purpose, step=step, scene=scene)
    return torch.randn(tuple(shape), generator=stream, dtype=torch.float32).to(device)
