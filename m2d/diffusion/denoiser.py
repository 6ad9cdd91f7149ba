"""The protocol through which the denoising loop sees a model, whatever runs it.

Owns the signature alone and imports no torch, so that listing backends stays cheap.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

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


@runtime_checkable
class ContextDenoiser(Denoiser, Protocol):
    """A denoiser that can compute clean context once, where the layout lets no step change it."""

    @property
    def context_bytes(self) -> int:
        """Memory of what is kept; 0 when nothing is."""

    def keep_context(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, *, targets: tuple[int, ...]
    ) -> ContextDenoiser:
        """Return a denoiser for `targets` in which the context's work is done.

        Its `predict` takes the same arguments and gives the same velocity, up to rounding. It goes on reading
        the targets' latents, prompts and timesteps, and no longer those of the scenes it kept. Where the
        layout lets context scenes see the targets, nothing is kept and every step computes all.

        Args:
            latents_BFCHW: All scenes' latents; only the context's are read.
            prompt_embeds_BLD: The prompts, and with them the batch size, of the calls to come.
            targets: The scenes that are denoised, ascending.
        """
