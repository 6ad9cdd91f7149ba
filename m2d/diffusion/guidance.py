"""Classifier-free guidance (Ho and Salimans, arXiv 2207.12598) with a scale per scene.

Owns how two velocities are combined; the denoising loop runs the model twice.
"""

# B batch, F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

import math
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
        is_dynamic: Whether the scales other than 1 vary over the steps; see `at`.
        mode: `batched` predicts both branches in one call, `sequential` in two with half the activations.

    Raises:
        ValueError: A scale is negative, infinite or not a number.
    """

    scales: tuple[float, ...]
    mode: Literal["batched", "sequential"] = "batched"
    is_dynamic: bool = False

    def __post_init__(self) -> None:
        for scene, scale in enumerate(self.scales):
            if not 0 <= scale < float("inf"):
                raise ValueError(f"scales[{scene}]: {scale} is not a guidance scale; use 0 or more")
        if self.mode not in ("batched", "sequential"):
            raise ValueError(f"mode: got {self.mode!r}, allowed: batched, sequential")

    def at(self, timestep: int, *, num_steps: int) -> GuidanceRule:
        """Return the rule of one step of a run of `num_steps` steps; a constant rule returns itself.

        Dynamic guidance is `use_dynamic_cfg` of diffusers' `CogVideoXPipeline` and `DynamicCFG` of
        CogVideoX's own code. Both put the timestep, 0 to 999, where one expects the number of the step. The
        scale therefore jumps between 1 and 1 + scale, and the models' defaults were chosen with that.
        """
        if not self.is_dynamic:
            return self
        course = (1 - math.cos(math.pi * ((num_steps - timestep) / num_steps) ** 5.0)) / 2
        return GuidanceRule(
            scales=tuple(scale if scale == 1.0 else 1 + scale * course for scale in self.scales),
            mode=self.mode,
        )

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
