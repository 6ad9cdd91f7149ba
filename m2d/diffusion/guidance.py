"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) with a scale per scene.

Owns how two velocities are combined; the denoising loop runs the model twice.
"""

# B batch, F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from m2d.layout import SceneLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceRule:
    """How strongly each scene follows its prompt.

    Attributes:
        scales: One per scene; 1 follows the prompt as trained, larger scales follow it more, 0 ignores it.
        mode: `batched` predicts both branches in one call, `sequential` in two with half the activations.

    Raises:
        ValueError: A scale is negative, infinite or not a number.
    """

    scales: tuple[float, ...]
    mode: Literal["batched", "sequential"] = "batched"

    def __post_init__(self) -> None:
        for scene, scale in enumerate(self.scales):
            if not 0 <= scale < float("inf"):
                raise ValueError(f"scales[{scene}]: {scale} is not a guidance scale; use 0 or more")
        if self.mode not in ("batched", "sequential"):
            raise ValueError(f"mode: got {self.mode!r}, allowed: batched, sequential")

    def enabled_for(self, scenes: Iterable[int]) -> bool:
        """Return whether any of `scenes` needs the prediction under the negative prompt."""
        return any(self.scales[scene] != 1.0 for scene in scenes)

    def combine(
        self,
        uncond_BFCHW: Tensor,
        cond_BFCHW: Tensor,
        layout: SceneLayout,
        *,
        scenes: tuple[int, ...] | None = None,
    ) -> Tensor:
        """Extrapolate each scene's velocity from the negative prompt's towards the prompt's.

        Args:
            uncond_BFCHW: Velocity under the negative prompts, float32.
            cond_BFCHW: Velocity under the prompts, same shape.
            layout: Lengths of the scenes.
            scenes: Scenes that F consists of, in order; None for all scenes of the layout.

        Returns:
            Guided velocity of the same shape. Scenes with scale 1 get `cond_BFCHW` bit for bit.
        """
        wanted = tuple(range(layout.num_scenes)) if scenes is None else scenes
        per_frame = [self.scales[scene] for scene in wanted for _ in range(layout.latent_frames[scene])]
        if len(per_frame) != cond_BFCHW.shape[1]:
            raise ValueError(
                f"scenes {list(wanted)} have {len(per_frame)} latent frames, the velocity has "
                f"{cond_BFCHW.shape[1]}"
            )
        scale_F = torch.tensor(per_frame, dtype=cond_BFCHW.dtype, device=cond_BFCHW.device)
        scale_BFCHW = scale_F.reshape(1, -1, 1, 1, 1)
        guided_BFCHW = uncond_BFCHW + scale_BFCHW * (cond_BFCHW - uncond_BFCHW)
        return torch.where(scale_BFCHW == 1.0, cond_BFCHW, guided_BFCHW)
