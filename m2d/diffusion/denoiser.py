"""The protocol through which the denoising loop calls a model, on any backend.

Imports no torch, so that listing backends stays cheap.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from m2d.layout import SceneLayout

if TYPE_CHECKING:
    from torch import Tensor


class Denoiser(Protocol):
    """A diffusion transformer prepared for one layout."""

    @property
    def layout(self) -> SceneLayout:
        """The layout that this denoiser runs, and no other."""

    @property
    def targets(self) -> tuple[int, ...]:
        """Scenes whose velocity `predict` returns, ascending."""

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity.

        Args:
            latents_BFCHW: All scenes' latents, concatenated along F.
            prompt_embeds_BLD: All scenes' prompt embeddings, concatenated along L.
            timesteps_BN: Every scene's timestep; 0 marks clean context.

        Returns:
            Velocity of the target scenes' frames, concatenated along F.

        Raises:
            LayoutMismatch: The shapes do not fit `layout`.
            BackendError: The backend has released the weights.
        """


@runtime_checkable
class ContextDenoiser(Denoiser, Protocol):
    """A denoiser that can compute clean context once, where no step changes it under the layout's mask."""

    @property
    def context_bytes(self) -> int:
        """Memory of the kept context; 0 when none is kept."""

    def keep_context(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, *, targets: tuple[int, ...]
    ) -> ContextDenoiser:
        """Return a denoiser for `targets` that has already computed the context.

        Its `predict` takes the same arguments and returns the same velocity, up to rounding, but ignores the
        latents, prompts and timesteps of the kept scenes. Where the layout lets context scenes see the
        targets, nothing is kept and every step computes all scenes.

        Args:
            latents_BFCHW: All scenes' latents; only those of context scenes are read.
            prompt_embeds_BLD: The prompts of the coming calls, in their batch size.
            targets: Scenes to denoise, ascending.
        """
