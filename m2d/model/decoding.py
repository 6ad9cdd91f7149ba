"""Decoding that survives running out of memory: another way to decode takes over, and says so.

Owns the order of the ways, what each does to the codec, and which errors mean a lack of memory. Decoding
itself is `m2d.model.codec`.
"""

# B batch, P pixel frames, F latent frames, C channels, H W height and width (of pixels or of latents).

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from m2d.errors import M2DError, Remedy
from m2d.model.codec import decode_scene, spatial_compression
from m2d.progress import Reporter

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

Rung = Literal["plain", "sliced", "tiled", "cpu"]

RUNGS: tuple[Rung, ...] = ("plain", "sliced", "tiled", "cpu")
"""Ways to decode, in the order they are tried. On one device all but `tiled` compute the same."""

_NEXT: Mapping[Rung, str] = MappingProxyType(
    {
        "sliced": "in slices (slower, the same frames)",
        "tiled": "in tiles (slower; frames differ slightly, most where tiles meet)",
        "cpu": "on the CPU (much slower)",
    }
)
# What torch says where it raises no OutOfMemoryError: the CPU's allocator, CUDA's driver and libraries, C++.
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "std::bad_alloc")
# Tiles overlap by a quarter of a multiple of four: diffusers multiplies sizes by this fraction and truncates,
# in latents and in pixels, and pictures keep their size only where both products are whole.
_TILE_STEP, _OVERLAP = 4, 0.25


class DecodingError(M2DError):
    """Latents that no way of decoding has enough memory for."""


class SceneDecoder:
    """Decodes scenes one by one; what worked for one scene is where the next one begins."""

    def __init__(self, codec: Callable[[], AutoencoderKLCogVideoX], *, reporter: Reporter) -> None:
        """Take the codec and load nothing yet.

        Args:
            codec: Gives the codec, the same at every call.
            reporter: Is told when memory runs out and what is tried next.
        """
        self._codec = codec
        self._reporter = reporter
        self._rung: Rung = "plain"

    @property
    def rung(self) -> Rung:
        """The way that worked last, which the next scene begins with."""
        return self._rung

    def decode(self, latents_FCHW: Tensor, *, scene: int) -> npt.NDArray[np.uint8]:
        """Decode one scene; see `decode_scene`, whose frames these are unless `rung` says `tiled`.

        Args:
            latents_FCHW: As `decode_scene` takes them.
            scene: Its number in the film, from 0, for messages.

        Returns:
            frames_PHWC: RGB.

        Raises:
            DecodingError: Every way ran out of memory.
        """
        codec = self._codec()
        ways = self._ways(codec)
        for rung in ways:
            if rung != self._rung:
                self._reporter.note(
                    f"decoding scene {scene + 1} ran out of memory; trying again {_NEXT[rung]}"
                )
                self._rung = rung
            try:
                with _way(codec, latents_FCHW, rung):
                    return decode_scene(codec, latents_FCHW)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Not in the except block: there the error still holds the failed try's tensors.
            _free_cached()
        raise DecodingError(
            f"decoding scene {scene + 1} ran out of memory in every way ({', '.join(ways)}); its latents are "
            "on disk",
            remedy=Remedy.FREE_MEMORY_AND_RESUME,
        )

    def _ways(self, codec: AutoencoderKLCogVideoX) -> tuple[Rung, ...]:
        ways = RUNGS[RUNGS.index(self._rung) :]
        is_on_cpu = codec.device.type == "cpu"
        return tuple(rung for rung in ways if rung != "cpu" or rung == self._rung or not is_on_cpu)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


@contextmanager
def sliced(codec: AutoencoderKLCogVideoX) -> Iterator[None]:
    """Let the codec decode the same frames in less memory while the context lasts.

    diffusers decodes a scene in groups of two or three latent frames, but never gives back what it may not
    need again: every causal convolution's last input frames, kept for the next group, twice while they are
    replaced, and for convolutions without extent in time, which never look back, the whole input. Here these
    wait in the CPU's memory, or are dropped, and so do finished groups. Slicing as diffusers means it splits
    a batch, and a scene is a batch of one.

    For 49 frames of 480 x 720 in float32 the tensors of CogVideoX's codec take 18.2 instead of 29.5 GiB, in
    tiles 5.4; for a single frame 2.5 instead of 6.7.
    """
    with ExitStack() as stack:
        stack.callback(codec.decoder.register_forward_hook(_to_cpu).remove)
        for module in codec.decoder.modules():
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
def _tiled(codec: AutoencoderKLCogVideoX, latents_FCHW: Tensor) -> Iterator[None]:
    """Decode quarters of the picture, sliced too; encoding afterwards is as it was."""
    was_tiled = bool(codec.use_tiling)
    height, width = (_tile_length(length) for length in latents_FCHW.shape[-2:])
    scale = spatial_compression(codec)
    codec.enable_tiling(
        tile_sample_min_height=height * scale,
        tile_sample_min_width=width * scale,
        tile_overlap_factor_height=_OVERLAP,
        tile_overlap_factor_width=_OVERLAP,
    )
    try:
        with sliced(codec):
            yield
    finally:
        codec.use_tiling = was_tiled


def _tile_length(length: int) -> int:
    """About half of `length`, in latents."""
    return -(-length // (2 * _TILE_STEP)) * _TILE_STEP


@contextmanager
def _way(codec: AutoencoderKLCogVideoX, latents_FCHW: Tensor, rung: Rung) -> Iterator[None]:
    if rung == "plain":
        yield
    elif rung == "tiled":
        with _tiled(codec, latents_FCHW):
            yield
    else:
        if rung == "cpu":
            codec.to("cpu")
        with sliced(codec):
            yield


def _free_cached() -> None:
    """Give back what the failed try left: its tensors, and what torch keeps of freed memory."""
    gc.collect()
    torch.cuda.empty_cache()
