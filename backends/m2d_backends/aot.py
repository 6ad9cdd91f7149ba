"""The aot backend: one layout as native code, compiled beforehand by torch.export and AOTInductor.

Owns exporting and loading the package. Loading builds no model and traces nothing: the package holds weights,
tables and native code, so it is loaded only if this user exported it on this machine.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from m2d.backend import BackendOptions, StoredArtifact
from m2d.backend_checks import require_available
from m2d.errors import BackendUnavailable, ExportError
from m2d.layout import SceneLayout
from m2d.reading import read_bytes
from m2d_backends.artifact_key import ArtifactKey, make_key, package_versions
from m2d_backends.compiled import compiler_problem, compiling
from m2d_backends.devices import device_problem
from m2d_backends.eager import EagerBackend
from m2d_backends.extra_options import ExtraOptions, parse_extra
from m2d_backends.graph_backend import GraphBackend, GraphCall, GraphRequest
from m2d_backends.onednn import bake_onednn, can_use_onednn
from m2d_backends.parity import check_parity

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.families.source import ModelSource
    from m2d_backends.baked import BakedTransformer

PACKAGE = "graph.pt2"
_MODEL_NAME = "model"
_CPU_FACTS, _LONGEST_FACTS_BYTES = Path("/proc/cpuinfo"), 16 << 20


class AotBackend(GraphBackend):
    """Runs packages of native code that `torch.export` and AOTInductor compiled beforehand."""

    name: ClassVar[str] = "aot"

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why packages cannot run here, or on `device`; exporting also needs a C++ compiler."""
        return EagerBackend().unavailable_reason() if device is None else device_problem(device)

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Compile one layout and size; see `m2d.backend.ExportingBackend`."""
        require_available(self, options.device)
        reason = compiler_problem(options.device)
        if reason is not None:
            raise BackendUnavailable(f"backend {self.name!r}: {reason}")
        return self._publish(self._request(source, layout, options), self._write, root=out)

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

    def _load(self, folder: Path, request: GraphRequest) -> GraphCall:
        # The loader behind torch._inductor.aoti_load_package, whose import would bring the compiler along.
        from torch._C._aoti import AOTIModelPackageLoader

        del request
        loader = AOTIModelPackageLoader(str(folder / PACKAGE), _MODEL_NAME, False, 1, -1)

        def run(latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
            (velocity_BFCHW,) = loader.boxed_run([latents_BFCHW, prompt_embeds_BLD, timesteps_BN])
            return velocity_BFCHW

        return run

    def _write(self, part: Path, request: GraphRequest) -> float:
        """Compile the package into `part`, and return its relative error."""
        key = request.key
        baked = request.bake(EagerBackend().load(request.source, replace(request.options, extra={})))
        _compile(baked, part / PACKAGE, key)
        run = self._load(part, request)
        return check_parity(baked, run, batch_sizes=[key.batch_size], dtype=key.dtype, backend=self.name)


def device_capability(device: str) -> str:
    """Return the target of native code: `cuda sm_90`, or the processor with its instruction sets."""
    import torch

    if device.startswith("cuda"):
        major, minor = torch.cuda.get_device_capability(device)
        return f"cuda sm_{major}{minor}"
    return f"{device} {platform.machine()} {torch.backends.cpu.get_cpu_capability()} {_instruction_sets()}"


def _instruction_sets() -> str:
    """Return a digest of this processor's instruction sets: on another one the code may crash."""
    try:
        facts = read_bytes(_CPU_FACTS, limit_bytes=_LONGEST_FACTS_BYTES)
    except OSError:
        return platform.processor()
    lines = facts.decode("ascii", "replace").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:8]


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
