"""Which scenes of a story are given and which are denoised: the segment-level conditional mask.

Owns the split into context and target scenes and the timestep of each; does not touch latents.
"""

# N scenes

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditioning:
    """Context scenes are given clean and never change; target scenes are denoised.

    Mask2DiT (arXiv 2503.19881, Eq. 2) conditions on the first n-1 scenes; here context is any subset.

    Attributes:
        num_scenes: Number of scenes in the story, N.
        context: Indices of the context scenes, from 0.

    Raises:
        ValueError: An index is outside the story, or no scene is left to denoise.
    """

    num_scenes: int
    context: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        outside = sorted(scene for scene in self.context if not 0 <= scene < self.num_scenes)
        if outside:
            raise ValueError(f"context: scenes {outside} are not among scenes 0 to {self.num_scenes - 1}")
        if len(self.context) >= self.num_scenes:
            raise ValueError(
                f"context: all {self.num_scenes} scenes are given, so there is nothing to denoise"
            )

    @property
    def targets(self) -> tuple[int, ...]:
        """Indices of the scenes to denoise, ascending; never empty."""
        return tuple(scene for scene in range(self.num_scenes) if scene not in self.context)

    def timesteps(self, timestep: int, *, device: torch.device | str = "cpu") -> Tensor:
        """Return the timestep of every scene, (N,) int64: 0 for context, `timestep` for targets."""
        return torch.tensor(
            [0 if scene in self.context else timestep for scene in range(self.num_scenes)], device=device
        )
