"""The seam between what m2d computes and what computes it: protocols, and nothing that runs.

Owns what a backend is given and must offer. Imports no torch, so that listing backends stays cheap; backends
live in `m2d_backends` or any other package and are found by `m2d.registry`.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args, runtime_checkable

from m2d.diffusion.denoiser import ContextDenoiser, Denoiser
from m2d.errors import InputError
from m2d.layout import SceneLayout

if TYPE_CHECKING:
    from torch import nn

    from m2d.families.source import ModelSource
    from m2d.model.scene_model import SceneModel

__all__ = [
    "ARTIFACT_MANIFEST",
    "Backend",
    "BackendOptions",
    "ContextDenoiser",
    "DTypeName",
    "Denoiser",
    "ExportManifest",
    "ExportingBackend",
    "StoredArtifact",
    "TrainableBackend",
]

ARTIFACT_MANIFEST = "manifest.json"
"""In the folder of every exported graph, and in no other: it says what the graph was made from."""

DTypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """How a denoiser is to run.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`. A backend uses this device or raises an error.
        dtype: What the transformer computes in.
        targets: The scenes whose velocity is wanted; None for all. Leaving out context scenes saves the last
            block and the head for these, exactly.
        latent_size: Height and width of the latents to come. An exported graph is made for one size; other
            backends take any and need not be told.
        batch_size: Largest batch of the calls to come; an exported graph is made for one.
        timesteps: All timesteps of the calls to come, besides the 0 of context; None when they are not known.
            A backend that keeps tables of them needs to be told.
        artifacts: Folder of exported graphs; None is the user's cache.
        extra: What only one backend knows, as `name: value`; it refuses what it does not know.

    Raises:
        InputError: A dtype m2d does not know, no target at all, or a size or batch below 1.
    """

    device: str = "cpu"
    dtype: DTypeName = "float32"
    targets: tuple[int, ...] | None = None
    latent_size: tuple[int, int] | None = None
    batch_size: int = 1
    timesteps: tuple[int, ...] | None = None
    artifacts: Path | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.batch_size, *(self.latent_size or (1, 1))) < 1:
            raise InputError(
                f"latent_size, batch_size: got {self.latent_size} and {self.batch_size}; use 1 or more"
            )
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

    def wrap(self, model: SceneModel) -> nn.Module:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredArtifact:
    """An exported graph on disk.

    Attributes:
        folder: Where it is.
        manifest: What it was made from.
        size_bytes: All its files together.
        relative_error: Largest difference from the eager model when it was made, as a share of the largest
            output.
    """

    folder: Path
    manifest: ExportManifest
    size_bytes: int
    relative_error: float


@runtime_checkable
class ExportingBackend(Backend, Protocol):
    """A backend that runs graphs written beforehand."""

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Write the graph for one layout and size, checked against the eager model before it is published.

        Args:
            source: The model.
            layout: What is baked in.
            options: `latent_size` is needed here.
            out: Folder in which the artifact gets a folder of its own; None is the user's cache. One that is
                there for the same layout, size and weights is replaced.

        Raises:
            BackendUnavailable: It cannot work here.
            InputError: Options it does not know, or no latent size.
            ExportError: The graph cannot be made or does not compute the same.
        """

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the folder of the artifact that `prepare` would run, without reading its weights.

        Raises:
            ArtifactMissing: There is none.
            ArtifactRefused: It is stale, foreign, damaged or not to be trusted; what differs is named.
        """

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        """List this backend's artifacts in a folder, or in the user's cache; damaged ones are left out."""
