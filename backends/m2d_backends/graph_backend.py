"""Base of the backends that run exported graphs: finds, loads, lists and publishes them, and calls them.

Owns which graph serves a request and how long it stays loaded; what a graph holds and what runs it is each
backend's.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from m2d.backend import BackendOptions, StoredArtifact
from m2d.backend_checks import check_memory, refuse_differences, require_available
from m2d.errors import BackendError, LayoutMismatch
from m2d.layout import SceneLayout
from m2d_backends.artifact import (
    inspect_artifact,
    locate,
    open_artifact,
    publish_artifact,
    stored_artifacts,
)
from m2d_backends.artifact_key import ArtifactKey, default_folder, key_digest, label_of

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.families.source import ModelSource
    from m2d.model.scene_model import SceneModel
    from m2d_backends.baked import BakedTransformer

logger = logging.getLogger(__name__)


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


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRequest:
    """A graph to export or to run: the model, the layout, the options, and the key they make."""

    source: ModelSource
    layout: SceneLayout
    options: BackendOptions
    key: ArtifactKey

    @property
    def label(self) -> str:
        """The short name of model and story in the folder's name."""
        return label_of(self.source, self.layout)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(F, C, H, W) of the predicted velocity."""
        frames = sum(self.layout.latent_frames[scene] for scene in self.key.targets)
        return (frames, *self.key.latent_shape[1:])

    def folder(self) -> Path:
        """Return where the artifact is looked for."""
        return locate(self.key, label=self.label, root=self.options.artifacts)

    def bake(self, transformer: SceneModel) -> BakedTransformer:
        """Return the module that a graph is traced from."""
        from m2d.model.scene_lora import loras_by_scene
        from m2d_backends.baked import BakedTransformer

        return BakedTransformer(
            transformer,
            self.layout,
            latent_shape=self.key.latent_shape,
            targets=self.key.targets,
            loras=loras_by_scene(self.options.loras, self.layout.num_scenes),
        ).eval()


class GraphBackend(ABC):
    """Runs graphs that were exported for one layout and size; see `m2d.backend.ExportingBackend`."""

    name: ClassVar[str]
    keeps_all: ClassVar[bool] = False
    """Whether several graphs stay loaded; otherwise a graph is dropped before the next one is loaded."""

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._loaded: dict[Hashable, GraphCall] = {}
        self._denoisers: WeakSet[GraphDenoiser] = WeakSet()

    @abstractmethod
    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why graphs cannot run here, or on `device`; see `m2d.backend.Backend`."""

    @abstractmethod
    def _key(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> ArtifactKey:
        """Return the key of the graph that the options ask for; raises InputError for wrong options."""

    @abstractmethod
    def _load(self, folder: Path, request: GraphRequest) -> GraphCall:
        """Load the graph of a verified artifact."""

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> GraphDenoiser:
        """Load the graph of this layout and size, after every check of `open_artifact`."""
        require_available(self, options.device)
        request = self._request(source, layout, options)
        folder, key = request.folder(), request.key
        # The key is part of the identity: two keys can share a folder that the options name.
        identity = (folder, key_digest(key), options.device, tuple(sorted(options.extra.items())))
        if identity not in self._loaded:
            if not self.keeps_all:
                # Two engines of a large model do not fit where one does. Denoisers in use keep theirs.
                self._loaded.clear()
            open_artifact(folder, key)
            self._loaded[identity] = self._load(folder, request)
            logger.info("%s: %s", self.name, folder)
        # A graph may accept a larger batch than the calls have: they are cut to theirs, never filled up.
        denoiser = GraphDenoiser(self._loaded[identity], layout, replace(key, batch_size=options.batch_size))
        self._denoisers.add(denoiser)
        return denoiser

    def release(self) -> None:
        """Drop the loaded graphs, also those of denoisers that are still referenced."""
        for denoiser in list(self._denoisers):
            denoiser.release()
        self._denoisers.clear()
        self._loaded.clear()

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the folder of the graph that `prepare` would run; see `m2d.backend.ExportingBackend`."""
        request = self._request(source, layout, options)
        inspect_artifact(request.folder(), request.key)
        return request.folder()

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        """List this backend's graphs; see `m2d.backend.ExportingBackend`."""
        return stored_artifacts(self.name, folder)

    def _request(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> GraphRequest:
        check_memory(self, memory=options.memory, quantized=options.quantized)
        # A LoRA of scenes outside the layout is not part of the graph.
        options = replace(options, loras=tuple(use for use in options.loras if use.scenes != ()))
        key = self._key(source, layout, options)
        return GraphRequest(source=source, layout=layout, options=options, key=key)

    def _publish(
        self, request: GraphRequest, write: Callable[[Path, GraphRequest], float], *, root: Path | None
    ) -> StoredArtifact:
        """Export with `write`, which returns the graph's relative error, into a new folder in `root`."""
        folder = default_folder(request.key, label=request.label, root=root)
        return publish_artifact(folder, request.key, lambda part: write(part, request))
