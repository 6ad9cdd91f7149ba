"""Counter-based randomness: every draw belongs to a name, so nothing depends on what was drawn before it.

Owns how a seed, a purpose, a step and a scene become a generator and noise; does not choose seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, *, purpose: str, step: int = 0, scene: int = 0) -> torch.Generator:
    """Return a fresh CPU generator for exactly one draw.

    The same arguments always give the same stream, on every machine, so a run that resumes at step k draws
    what the uninterrupted run drew there, and a checkpoint stores no generator state.

    Args:
        seed: The user's seed, any integer.
        purpose: What the draw is for, such as `initial noise`; keeps unrelated draws of one step apart.
        step: Denoising or training step, from 0.
        scene: Index of the scene, from 0.
    """
    name = f"m2d\0{purpose}\0{seed}\0{step}\0{scene}".encode()
    # The CPU generator keeps 32 bits of its seed, so take exactly these.
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
    """Draw standard normal float32 noise on the CPU and move it: every device starts from the same noise.

    Args:
        shape: Shape of the result.
        seed: See `generator`; so are `purpose`, `step` and `scene`.
        purpose: What the draw is for.
        step: Denoising or training step.
        scene: Index of the scene.
        device: Where the result goes.
    """
    stream = generator(seed, purpose=purpose, step=step, scene=scene)
    return torch.randn(tuple(shape), generator=stream, dtype=torch.float32).to(device)
