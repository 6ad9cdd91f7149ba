"""The VAE of a pipeline: loaded when first needed, on the device beside or in turn with the transformer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from m2d.backend import Backend, ParkingBackend
from m2d.families.loading import load_vae
from m2d.families.source import ModelSource
from m2d.pipeline.decoding import SceneDecoder, free_cached
from m2d.pipeline.window import memory_of
from m2d.placement.modes import DecodeName
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan

if TYPE_CHECKING:
    from m2d.families.family import DecodeStrategy, SceneVae


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeUse:
    """How a pipeline's VAE runs.

    Attributes:
        dtype: What it computes in; half precision bands skies and shifts colours.
        decode: The decode strategy to start with; `auto` starts with the fastest.
        is_alone: Whether transformer and VAE take turns on the device.
    """

    dtype: torch.dtype = torch.float32
    decode: DecodeName = "auto"
    is_alone: bool = False

    @classmethod
    def of(cls, plan: RunPlan) -> Self:
        """Return the use of a run's VAE."""
        dtype: torch.dtype = getattr(torch, plan.vae_dtype)
        return cls(dtype=dtype, decode=plan.decode, is_alone=memory_of(plan) != "full")


DEFAULT_VAE = VaeUse()


class PipelineVae:
    """Returns the VAE when called."""

    def __init__(self, source: ModelSource, backend: Backend, *, device: str, use: VaeUse) -> None:
        """Load nothing yet."""
        self._source, self._backend, self._device, self._use = source, backend, device, use
        self._vae: SceneVae | None = None
        self._is_away = False

    def __call__(self) -> SceneVae:
        """Return the VAE, on the pipeline's device."""
        if self._vae is None:
            self._vae = load_vae(self._source, device=self._device, dtype=self._use.dtype)
        if self._is_away:
            self._vae.module.to(self._device)
            self._is_away = False
        return self._vae

    @contextmanager
    def beside_transformer(self) -> Iterator[None]:
        """Let the VAE work between two windows."""
        if not self._use.is_alone:
            yield
            return
        if isinstance(self._backend, ParkingBackend):
            self._backend.park()
        yield
        if self._vae is not None:
            self._vae.module.to("cpu")
            self._is_away = True
        free_cached()

    def decoder(self, *, reporter: Reporter, num_threads: Mapping[int, int | None]) -> SceneDecoder:
        """Return a decoder that starts with the chosen decode strategy, or with the fastest."""
        strategy = "plain" if self._use.decode == "auto" else self._use.decode
        return SceneDecoder(self, reporter=reporter, num_threads=num_threads, strategy=strategy)

    @property
    def first_frame_strategy(self) -> DecodeStrategy:
        """How a scene is decoded while the transformer is loaded."""
        return "tiled" if self._use.decode == "tiled" else "sliced"
