"""Latents to the frames that are shown: decoded within the memory there is, and matched in colour.

When a decode strategy runs out of memory, the next one is tried and reported. What a strategy does to a VAE
is its family's.
"""

# P frames, F latent frames, C channels, H W height and width, L levels

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from m2d.errors import M2DError, Remedy
from m2d.families.family import DECODE_STRATEGIES, DecodeStrategy, SceneVae
from m2d.model.finite import NotFiniteError
from m2d.pipeline.machine import computing_with
from m2d.progress import Reporter
from m2d.video.joining import colour_map, recolour

_NEXT: Mapping[DecodeStrategy, str] = MappingProxyType(
    {
        "sliced": "in slices (slower, the same frames)",
        "tiled": "in tiles (slower; frames differ slightly, most where tiles meet)",
        "cpu": "on the CPU (much slower)",
    }
)
# What torch says where it raises no OutOfMemoryError: the CPU's allocator, CUDA's driver and libraries, C++.
_KEPT = "No film was written; the latents are kept"
_OUT_OF_MEMORY = ("DefaultCPUAllocator", "out of memory", "ALLOC_FAILED", "std::bad_alloc")


class DecodingError(M2DError):
    """The VAE has too little memory for the latents, or makes no picture of them."""


class SceneDecoder:
    """Decodes scenes one by one; `strategy` worked last, and the next scene begins with it."""

    def __init__(
        self,
        vae: Callable[[], SceneVae],
        *,
        reporter: Reporter,
        num_threads: Mapping[int, int | None] = MappingProxyType({}),
        strategy: DecodeStrategy = "plain",
    ) -> None:
        """Load nothing yet; `vae` returns the same VAE at every call, `num_threads` is that of each scene."""
        self._vae = vae
        self._num_threads = num_threads
        self._reporter = reporter
        self.strategy = strategy

    def decode(self, latents_FCHW: Tensor, *, scene: int) -> npt.NDArray[np.uint8]:
        """Decode scene number `scene`, from 0, to RGB frames; only `tiled` decoding changes them.

        Raises:
            DecodingError: Every strategy ran out of memory, or the frames are not finite or of one colour.
        """
        vae = self._vae()
        ways = self._ways(vae)
        for strategy in ways:
            if strategy != self.strategy:
                self._reporter.note(
                    f"decoding scene {scene + 1} ran out of memory; trying again {_NEXT[strategy]}"
                )
                self.strategy = strategy
            try:
                with computing_with(self._num_threads.get(scene)), vae.decoding(strategy, latents_FCHW):
                    return _checked(vae.decode(latents_FCHW), scene=scene)
            except NotFiniteError as error:
                raise DecodingError(f"scene {scene + 1}: {error}. {_KEPT}") from error
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            # Not in the except block: there the error still holds the failed try's tensors.
            gc.collect()
            free_cached()
        raise DecodingError(
            f"decoding scene {scene + 1} ran out of memory in every way ({', '.join(ways)}); its latents are "
            "on disk",
            remedy=Remedy.FREE_MEMORY_AND_RESUME,
        )

    def _ways(self, vae: SceneVae) -> tuple[DecodeStrategy, ...]:
        first, *slower = DECODE_STRATEGIES[DECODE_STRATEGIES.index(self.strategy) :]
        is_on_cpu = vae.device.type == "cpu"
        return first, *(strategy for strategy in slower if not (strategy == "cpu" and is_on_cpu))


def _checked(frames_PHWC: npt.NDArray[np.uint8], *, scene: int) -> npt.NDArray[np.uint8]:
    if frames_PHWC[0].size > frames_PHWC.shape[-1] and not np.ptp(frames_PHWC, axis=(0, 1, 2)).any():
        colour = ", ".join(map(str, frames_PHWC[0, 0, 0].tolist()))
        raise DecodingError(
            f"scene {scene + 1}: the VAE decoded every pixel to the one colour ({colour}); its weights or "
            f"its scaling_factor are corrupt, get the model again. {_KEPT}"
        )
    return frames_PHWC


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def free_cached() -> None:
    """Return cached device memory to the system: the next model needs it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class ShownFrames(NamedTuple):
    """The frames of a scene as they are shown.

    Attributes:
        frames_PHWC: uint8, before transitions to other scenes are blended.
        colour_map_LC: The map that their colours went through, uint8 (256, 3); None when there was none.
    """

    frames_PHWC: np.ndarray
    colour_map_LC: np.ndarray | None


def decode_matched(
    decoder: SceneDecoder, latents_FCHW: Tensor, *, scene: int, before_PHWC: np.ndarray | None
) -> ShownFrames:
    """Decode a new scene and match its colours to the shown frames of the scene before it, if given.

    Args:
        before_PHWC: The shown frames of the scene before; None matches nothing.
    """
    frames_PHWC = decoder.decode(latents_FCHW, scene=scene)
    if before_PHWC is None:
        return ShownFrames(frames_PHWC, None)
    map_LC = colour_map(frames_PHWC, before_PHWC)
    return ShownFrames(recolour(frames_PHWC, map_LC), map_LC)
