"""The protocols between m2d and the backends that run its transformer.

Owns the arguments and methods of a backend. Imports no torch, so that listing backends stays cheap. Backends
are in `m2d_backends` or any other package; `m2d.registry` finds them.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, get_args, runtime_checkable

from m2d.diffusion.denoiser import ContextDenoiser as ContextDenoiser
from m2d.diffusion.denoiser import Denoiser as Denoiser
from m2d.errors import InputError
from m2d.layout import SceneLayout
from m2d.model.lora_file import LoraUse
from m2d.placement.modes import MemoryMode, Quantized

if TYPE_CHECKING:
    from torch import nn

    from m2d.families.source import ModelSource
    from m2d.model.scene_model import SceneModel

ARTIFACT_MANIFEST = "manifest.json"
"""The file in every artifact's folder, and in no other, that holds the graph's key."""

DTypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendOptions:
    """Options for preparing a denoiser.

    Attributes:
        device: `cpu`, `cuda` or `cuda:1`. A backend uses this device or raises an error.
        targets: The scenes whose velocity is predicted; None for all. Context scenes that are left out skip
            the last block and the head; the result is the same.
        latent_size: Height and width of the latents. Exported graphs need it; other backends run any size.
        batch_size: Largest batch of the calls; an exported graph is made for one.
        timesteps: All timesteps of the calls, without the 0 of context; None if unknown. Needed by backends
            that keep tables of timesteps.
        artifacts: Folder of exported graphs; None is the user's cache.
        loras: LoRAs of the transformer; their scenes are those of the layout.
        memory: Where weights wait while they are not used. It changes no result.
        quantized: How the transformer's weights are stored; None for those of the model folder.
        extra: Options of one backend alone, as `name: value`; it rejects unknown names.

    Raises:
        InputError: An unknown dtype, an empty tuple of targets, or a size or batch below 1.
    """

    device: str = "cpu"
    dtype: DTypeName = "float32"
    targets: tuple[int, ...] | None = None
    latent_size: tuple[int, int] | None = None
    batch_size: int = 1
    timesteps: tuple[int, ...] | None = None
    artifacts: Path | None = None
    loras: tuple[LoraUse, ...] = ()
    memory: MemoryMode = "full"
    quantized: Quantized | None = None
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

        Cheap: checks packages, versions and the device, if one is given; loads nothing.
        """

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        """Return a denoiser for one layout.

        Weights stay loaded until `release`: another layout or other targets of the same model, device and
        dtype load nothing. A long story prepares a denoiser for every window.

        Raises:
            BackendUnavailable: It cannot work here or on that device.
            CheckpointError: The model folder is incomplete or holds another kind of model.
            InputError: The layout has no such target.
        """

    def release(self) -> None:
        """Free the memory of the loaded weights, even if denoisers still reference them.

        Decoding needs the memory. Denoisers of the freed weights raise `BackendError` from now on; `prepare`
        loads the weights again. With nothing loaded this does nothing.
        """


@runtime_checkable
class ParkingBackend(Backend, Protocol):
    """A backend whose transformer can leave the device for a while: it has the mode `model-offload`."""

    def park(self) -> None:
        """Move the loaded weights into the CPU's memory; the next call of a denoiser moves them back."""


@runtime_checkable
class TrainableBackend(Backend, Protocol):
    """A backend through which gradients flow."""

    def wrap(self, model: SceneModel) -> nn.Module:
        """Return a module with the model's forward signature and its parameters, to train through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportManifest:
    """The key of an exported graph, which serves no other key.

    Attributes:
        weights_digest: SHA-256 of the model's weights, and of the LoRAs that the graph holds.
        layout_digest: `SceneLayout.digest()` of the baked layout.
        latent_shape: (F, C, H, W) of all scenes together.
        batch_size: Largest batch it accepts; 2 with batched guidance.
        device: Its device with the capability it was compiled for, such as `cuda sm_90`.
        versions: Versions of the libraries that made it, and the opset if there is one.
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
        size_bytes: Size of all its files.
        relative_error: Largest difference from the eager model at the time of export, as a share of the
            largest output.
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
        """Export the graph for one layout and size; publish it once it matches the eager model.

        Args:
            options: Must have a `latent_size`.
            out: Parent of the artifact's folder; None is the user's cache. An artifact for the same layout,
                size and weights is replaced.

        Raises:
            BackendUnavailable: It cannot work here.
            InputError: Unknown options, or no latent size.
            ExportError: The graph cannot be exported, or its output differs from eager's.
        """

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the folder of the artifact that `prepare` would run, without reading its weights.

        Raises:
            ArtifactMissing: There is none.
            ArtifactRefused: It is outdated, modified, or copied from another machine; the message says which.
        """

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        """List this backend's artifacts in a folder or in the user's cache; unreadable ones are left out."""
