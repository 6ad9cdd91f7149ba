"""A denoiser around an exported graph of one layout, size and batch.

Owns checking the inputs and cutting a batch into the graph's; the backend gives it a function that runs the
graph.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from m2d.backend_checks import refuse_differences
from m2d.errors import BackendError, LayoutMismatch
from m2d.layout import SceneLayout
from m2d_backends.artifact_key import ArtifactKey

if TYPE_CHECKING:
    from torch import Tensor

GraphCall = Callable[["Tensor", "Tensor", "Tensor"], "Tensor"]


class GraphDenoiser:
    """An exported graph bound to its layout; see `m2d.backend.Denoiser`."""

    def __init__(self, run: GraphCall, layout: SceneLayout, key: ArtifactKey) -> None:
        """Bind a graph: latents, prompt embeddings and timesteps, each of the key's batch, to the velocity.

        The next call of `run` must not overwrite the tensor that it returned.
        """
        self.layout = layout
        self.targets = key.targets
        self._key = key
        self._run: GraphCall | None = run

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity; see `m2d.backend.Denoiser`."""
        import torch

        if self._run is None:
            raise BackendError("the graph of this denoiser was released; prepare another one")
        self._check(latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        inputs = (latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        size = self._key.batch_size
        parts = []
        with torch.inference_mode():
            for start in range(0, latents_BFCHW.shape[0], size):
                part = [tensor[start : start + size] for tensor in inputs]
                count = part[0].shape[0]
                parts.append(self._run(*_filled(part, size))[:count])
            return parts[0] if len(parts) == 1 else torch.cat(parts)

    def release(self) -> None:
        """Drop the graph; `predict` raises from now on."""
        self._run = None

    def _check(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> None:
        frames, channels, height, width = self._key.latent_shape
        found = {
            "latent frames": (latents_BFCHW.shape[1], frames),
            "latent channels": (latents_BFCHW.shape[2], channels),
            "latent height": (latents_BFCHW.shape[3], height),
            "latent width": (latents_BFCHW.shape[4], width),
            "text tokens": (prompt_embeds_BLD.shape[1], self.layout.num_text_tokens),
            "timesteps": (timesteps_BN.shape[1], self.layout.num_scenes),
        }
        dtype = str(latents_BFCHW.dtype).removeprefix("torch.")
        if dtype != self._key.dtype:
            raise LayoutMismatch(
                f"this denoiser was prepared for layout {self.layout.digest()[:12]}; dtype: got {dtype}, the "
                f"graph computes in {self._key.dtype}"
            )
        refuse_differences(self.layout, found)


def _filled(tensors: list[Tensor], size: int) -> list[Tensor]:
    """Fill a batch up to `size`, which a static graph needs; the caller drops the extra rows."""
    import torch

    count = tensors[0].shape[0]
    if count == size:
        return [tensor.contiguous() for tensor in tensors]
    return [torch.cat([tensor, tensor[:1].expand(size - count, *tensor.shape[1:])]) for tensor in tensors]
