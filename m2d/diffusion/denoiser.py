"""The protocol through which the denoising loop sees a model, whatever runs it.

Owns the signature alone and imports no torch, so that listing backends stays cheap.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from m2d.layout import SceneLayout

if TYPE_CHECKING:
    from torch import Tensor


class Denoiser(Protocol):
    """One diffusion transformer, prepared for one layout."""

    @property
    def layout(self) -> SceneLayout:
        """The only layout this denoiser runs."""

    @property
    def targets(self) -> tuple[int, ...]:
        """The scenes whose velocity `predict` returns, ascending."""

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity.

        Args:
            latents_BFCHW: All scenes' latents, concatenated along F.
            prompt_embeds_BLD: All scenes' prompt embeddings, concatenated along L.
            timesteps_BN: Every scene's timestep; 0 marks clean context.

        Returns:
            Velocity of the target scenes' frames, concatenated along F.

        Raises:
            LayoutMismatch: The shapes are not those of `layout`.
            BackendError: Its backend has released the weights.
        """
