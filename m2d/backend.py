"""The seam between what m2d computes and what computes it: protocols, and nothing that runs.

Owns what a backend is given and must offer. Imports no torch, so that listing backends stays cheap; backends
live in `m2d_backends` or any other package and are found by `m2d.registry`.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args, runtime_checkable

from m2d.diffusion.denoiser import Denoiser
from m2d.errors import InputError
from m2d.layout import SceneLayout

if TYPE_CHECKING:
    from torch import nn

    from m2d.model.source import ModelSource
    from m2d.model.transformer import SceneTransformer

__all__ = [
    "Backend",
    "BackendOptions",
    "DTypeName",
    "Denoiser",
    "ExportManifest",
    "ExportingBackend",
    "TrainableBackend",
]

DTypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """How a denoiser is to run.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`. A backend that cannot use it refuses; it never takes another.
        dtype: What the transformer computes in.
        targets: The scenes whose velocity is wanted; None for all. Leaving out context scenes saves the last
            block and the head for these, exactly.

    Raises:
        InputError: A dtype m2d does not know, or no target at all.
    """

    device: str = "cpu"
    dtype: DTypeName = "float32"
    targets: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in get_args(DTypeName):
            raise InputError(f"dtype: got {self.dtype!r}, allowed: {', '.join(get_args(DTypeName))}")
        if self.targets is not None and (not self.targets or list(self.targets) != sorted(set(self.targets))):
            raise InputError(
                f"targets: got {self.targets}; give scene numbers from 0, ascending, or None for all"
            )


class Backend(Protocol):
    """Turns a model folder into denoisers."""

    name: ClassVar[str]

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why this backend cannot work here, or None when it can.

        Cheap: looks for packages, versions and, when `device` is given, that device; builds nothing.

        Args:
            device: The device it would run on; None asks about the backend on any.
        """

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        """Make the model ready to run one layout.

        What was loaded is kept until `release`: another layout, or other targets, of the same source, device
        and dtype reads no weights again. A long story prepares a denoiser for every window.

        Raises:
            BackendUnavailable: It cannot work here or on that device.
            CheckpointError: The model folder is incomplete or foreign.
            InputError: Targets that the layout does not have.
        """

    def release(self) -> None:
        """Free the memory of what is loaded, whoever still holds a denoiser of it.

        What comes after denoising needs the room. Denoisers of the freed weights raise `BackendError` from
        here on; `prepare` loads anew. With nothing loaded this does nothing.
        """


@runtime_checkable
class TrainableBackend(Backend, Protocol):
    """A backend through which gradients flow."""

    def wrap(self, model: SceneTransformer) -> nn.Module:
        """Return a module with the model's forward signature and its parameters, to train through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportManifest:
    """What an exported graph was made from; it runs nothing else.

    Attributes:
        backend: The backend that wrote it and runs it.
        weights_digest: SHA-256 of the model's weights.
        layout_digest: `SceneLayout.digest()` of the baked layout.
        latent_shape: (F, C, H, W) of all scenes together.
        batch_size: Largest batch it accepts; 2 with batched guidance.
        targets: The scenes it predicts.
        dtype: What it computes in.
        device: What it runs on, with the capability it was compiled for, such as `cuda sm_90`.
        versions: Libraries that made it, and the opset if there is one.
    """

    backend: str
    weights_digest: str
    layout_digest: str
    latent_shape: tuple[int, int, int, int]
    batch_size: int
    targets: tuple[int, ...]
    dtype: DTypeName
    device: str
    versions: Mapping[str, str]


@runtime_checkable
class ExportingBackend(Backend, Protocol):
    """A backend that runs graphs written beforehand."""

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path
    ) -> ExportManifest:
        """Write the graph for one layout to the folder `out`, checked against the eager model.

        Raises:
            BackendUnavailable: It cannot work here.
            ExportError: The graph cannot be made or does not compute the same.
        """
