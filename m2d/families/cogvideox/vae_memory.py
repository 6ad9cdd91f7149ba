"""Ways for CogVideoX's VAE to decode a scene in less memory: in slices, in tiles, on the CPU."""

# B batch, P pixel frames, F latent frames, C channels, H W height and width (of pixels or of latents).

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from m2d.families.family import DecodeStrategy

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLCogVideoX

# Tiles overlap by a quarter of a multiple of four: diffusers multiplies sizes by this fraction and truncates,
# in latents and in pixels, and pictures keep their size only where both products are whole.
_TILE_STEP, _OVERLAP = 4, 0.25


@contextmanager
def sliced(vae: AutoencoderKLCogVideoX) -> Iterator[None]:
    """Let the vae decode the same frames in less memory while the context lasts.

    diffusers decodes a scene in groups of two or three latent frames, but never gives back what it may not
    need again: every causal convolution's last input frames, kept for the next group, twice while they are
    replaced, and for convolutions without extent in time, which never look back, the whole input. Here these
    wait in the CPU's memory, or are dropped, and so do finished groups. Slicing as diffusers means it splits
    a batch, and a scene is a batch of one.

    For 49 frames of 480 x 720 in float32 the tensors of CogVideoX's vae take 18.2 instead of 29.5 GiB, in
    tiles 5.4; for a single frame 2.5 instead of 6.7.
    """
    with ExitStack() as stack:
        stack.callback(vae.decoder.register_forward_hook(_to_cpu).remove)
        for module in vae.decoder.modules():
            if hasattr(module, "time_kernel_size"):
                before = module.register_forward_pre_hook(_with_parked, with_kwargs=True)
                after = module.register_forward_hook(_parking)
                stack.callback(before.remove)
                stack.callback(after.remove)
        yield


class _Parked:
    """A convolution's last input frames, waiting in the CPU's memory until they are taken."""

    def __init__(self, frames_BCPHW: Tensor) -> None:
        self._frames_BCPHW: Tensor | None = frames_BCPHW.to("cpu")

    def take(self, device: torch.device) -> Tensor:
        frames_BCPHW, self._frames_BCPHW = self._frames_BCPHW, None
        if frames_BCPHW is None:
            raise RuntimeError("a convolution's frames were taken twice")
        return frames_BCPHW.to(device)


def _to_cpu(_module: nn.Module, _inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
    frames_BCPHW, cache = output
    return frames_BCPHW.to("cpu"), cache


def _parking(
    module: Any, _inputs: Any, output: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, _Parked | None]:
    frames_BCPHW, cache_BCPHW = output
    if cache_BCPHW is None or module.time_kernel_size == 1:
        return frames_BCPHW, None
    return frames_BCPHW, _Parked(cache_BCPHW)


def _with_parked(_module: nn.Module, inputs: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cache = keywords.get("conv_cache")
    if isinstance(cache, _Parked):
        keywords = keywords | {"conv_cache": cache.take(inputs[0].device)}
    return inputs, keywords


@contextmanager
def _tiled(vae: AutoencoderKLCogVideoX, latents_FCHW: Tensor) -> Iterator[None]:
    """Decode quarters of the picture, sliced too; encoding afterwards is as it was."""
    was_tiled = bool(vae.use_tiling)
    height, width = (tile_length(length) for length in latents_FCHW.shape[-2:])
    # Every level but the last halves height and width.
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    vae.enable_tiling(
        tile_sample_min_height=height * scale,
        tile_sample_min_width=width * scale,
        tile_overlap_factor_height=_OVERLAP,
        tile_overlap_factor_width=_OVERLAP,
    )
    try:
        with sliced(vae):
            yield
    finally:
        vae.use_tiling = was_tiled


def tile_length(length: int) -> int:
    """Return the side of a tile: about half of `length`, in latents."""
    return -(-length // (2 * _TILE_STEP)) * _TILE_STEP


@contextmanager
def decoding(vae: AutoencoderKLCogVideoX, strategy: DecodeStrategy, latents_FCHW: Tensor) -> Iterator[None]:
    """Let the VAE decode latents by a strategy while the context lasts; `cpu` moves it there for good."""
    if strategy == "plain":
        yield
    elif strategy == "tiled":
        with _tiled(vae, latents_FCHW):
            yield
    else:
        if strategy == "cpu":
            vae.to("cpu")
        with sliced(vae):
            yield
