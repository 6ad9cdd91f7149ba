"""The aot backend: one layout as native code, compiled beforehand by torch.export and AOTInductor.

Owns exporting and loading the package. Loading builds no model and traces nothing: the package holds weights,
tables and code. It is native code, so it is loaded only when this user exported it on this machine.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import hashlib
import logging
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from m2d.backend import BackendOptions, StoredArtifact
from m2d.errors import BackendUnavailable, ExportError
from m2d.layout import SceneLayout
from m2d_backends.artifact import (
    ArtifactKey,
    default_folder,
    inspect_artifact,
    label_of,
    locate,
    make_key,
    open_artifact,
    package_versions,
    publish_artifact,
    stored_artifacts,
)
from m2d_backends.compiled import compiler_problem, compiling
from m2d_backends.devices import device_problem
from m2d_backends.eager import EagerBackend
from m2d_backends.extra_options import ExtraOptions, parse_extra
from m2d_backends.graph_denoiser import GraphCall, GraphDenoiser
from m2d_backends.onednn import bake_onednn, can_use_onednn
from m2d_backends.parity import check_parity

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.model.source import ModelSource
    from m2d_backends.baked import BakedTransformer

logger = logging.getLogger(__name__)

PACKAGE = "graph.pt2"
_MODEL_NAME = "model"


class AotBackend:
    """Runs packages that `m2d export --backend aot` wrote."""

    name: ClassVar[str] = "aot"

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._loaded: tuple[Path, ArtifactKey, GraphCall] | None = None
        self._denoisers: WeakSet[GraphDenoiser] = WeakSet()

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why packages cannot run here, or on `device`; exporting needs a C++ compiler besides."""
        return EagerBackend().unavailable_reason() if device is None else device_problem(device)

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> GraphDenoiser:
        """Load the package exported for this layout and size, after every check of `open_artifact`."""
        self._check_available(options.device)
        key = self._key(source, layout, options)
        folder = self._folder(key, source, layout, options)
        if self._loaded is None or self._loaded[:2] != (folder, key):
            self._loaded = None
            open_artifact(folder, key, is_native=True)
            self._loaded = (folder, key, _load(folder / PACKAGE))
            logger.info("aot: %s", folder)
        denoiser = GraphDenoiser(self._loaded[2], layout, key)
        self._denoisers.add(denoiser)
        return denoiser

    def release(self) -> None:
        """Let go of the loaded package, also in denoisers that are still held."""
        for denoiser in list(self._denoisers):
            denoiser.release()
        self._denoisers.clear()
        self._loaded = None

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Compile one layout and size; see `m2d.backend.ExportingBackend`."""
        self._check_available(options.device)
        reason = compiler_problem(options.device)
        if reason is not None:
            raise BackendUnavailable(f"backend {self.name!r}: {reason}")
        key = self._key(source, layout, options)

        def write(folder: Path) -> float:
            baked = _bake(source, layout, key, options)
            _compile(baked, folder / PACKAGE, key)
            return check_parity(
                baked,
                _load(folder / PACKAGE),
                batch_size=key.batch_size,
                dtype=key.dtype,
                backend=self.name,
            )

        folder = default_folder(key, label=label_of(source, layout), root=out)
        return publish_artifact(folder, key, write)

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the artifact's folder; see `m2d.backend.ExportingBackend`."""
        key = self._key(source, layout, options)
        folder = self._folder(key, source, layout, options)
        inspect_artifact(folder, key, is_native=True)
        return folder

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        """List packages; see `m2d.backend.ExportingBackend`."""
        return stored_artifacts(self.name, folder)

    def _check_available(self, device: str) -> None:
        reason = self.unavailable_reason(device)
        if reason is not None:
            raise BackendUnavailable(f"backend {self.name!r}: {reason}")

    def _key(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> ArtifactKey:
        parse_extra(self.name, ExtraOptions, options.extra)
        return make_key(
            self.name,
            source,
            layout,
            options,
            versions=package_versions("torch"),
            device=device_capability(options.device),
        )

    def _folder(
        self, key: ArtifactKey, source: ModelSource, layout: SceneLayout, options: BackendOptions
    ) -> Path:
        return locate(key, label=label_of(source, layout), root=options.artifacts)


def device_capability(device: str) -> str:
    """What native code is compiled for: `cuda sm_90`, or the kind of processor with its instruction sets."""
    import torch

    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    return f"{device} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_instruction_sets()}"


def _instruction_sets() -> str:
    """A digest of what this processor can do: code compiled for it may stop another one."""
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return platform.processor()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:8]


def _bake(
    source: ModelSource, layout: SceneLayout, key: ArtifactKey, options: BackendOptions
) -> BakedTransformer:
    from m2d_backends.baked import BakedTransformer

    transformer = EagerBackend().load(source, replace(options, extra={}))
    return BakedTransformer(transformer, layout, latent_shape=key.latent_shape, targets=key.targets).eval()


def _compile(baked: BakedTransformer, package: Path, key: ArtifactKey) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package

    inputs = baked.example_inputs(key.batch_size, getattr(torch, key.dtype), baked.transformer.device, seed=0)
    with compiling(), torch.no_grad():
        try:
            program = torch.export.export(baked, tuple(inputs), strict=False)
            if can_use_onednn(baked.transformer.device.type):
                bake_onednn(program.graph_module)
            aoti_compile_and_package(program, package_path=str(package))
        except (torch._dynamo.exc.UserError, torch._inductor.exc.CppCompileError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise ExportError(f"backend 'aot': torch cannot compile this model: {first_line}") from error


def _load(package: Path) -> GraphCall:
    # The loader behind torch._inductor.aoti_load_package, whose import would bring the compiler along.
    from torch._C._aoti import AOTIModelPackageLoader

    loader = AOTIModelPackageLoader(str(package), _MODEL_NAME, False, 1, -1)

    def run(latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        (velocity_BFCHW,) = loader.boxed_run([latents_BFCHW, prompt_embeds_BLD, timesteps_BN])
        return velocity_BFCHW

    return run
