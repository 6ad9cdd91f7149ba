"""The TensorRT backend: one engine per layout and size, built from the same ONNX graph that runs elsewhere.

Owns exporting and loading engines. An engine is loaded only if this user built it on this machine. None is
rebuilt silently: an outdated one is rejected with both keys.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from m2d.backend import BackendOptions, StoredArtifact
from m2d.backend_checks import require_available
from m2d.errors import ArtifactRefused, BackendUnavailable, InputError
from m2d.layout import SceneLayout
from m2d.reading import memory_limit_bytes, read_bytes
from m2d_backends import devices
from m2d_backends.artifact import open_artifact
from m2d_backends.artifact_key import ArtifactKey, make_key, package_versions
from m2d_backends.extra_options import parse_extra
from m2d_backends.graph_backend import GraphBackend, GraphCall, GraphRequest
from m2d_backends.onnx_graph import (
    GRAPH_FILE,
    MAX_BATCH,
    OPSETS,
    WEIGHTS_FILE,
    read_graph,
    structure_digest,
)
from m2d_backends.parity import check_parity
from m2d_backends.tensorrt_engine import (
    BuiltEngine,
    Engine,
    EngineCall,
    build_engine,
    refit_engine,
    serialize_refitted,
)
from m2d_backends.tensorrt_plan import (
    NOT_YET_RUN,
    DeviceFacts,
    TensorFacts,
    TensorRTOptions,
    device_problem,
    driver_major,
    expected_tensors,
    graph_opset,
    key_versions,
    profiles,
    version_of,
)

if TYPE_CHECKING:
    from m2d.families.source import ModelSource

logger = logging.getLogger(__name__)

PLAN_FILE = "engine.plan"
TIMING_FILE = "timing.cache"
_LONGEST_FACTS_BYTES = 1 << 16
_DRIVER_FILE = Path("/proc/driver/nvidia/version")


class TensorRTBackend(GraphBackend):
    """Runs engines that were built on this machine. It cannot train: engines have no gradients."""

    name: ClassVar[str] = "tensorrt"
    not_yet_run: ClassVar[str] = NOT_YET_RUN

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why engines cannot be built or run here, or on `device`; see `m2d.backend.Backend`."""
        reason = None if device is None else device_problem(device)
        return reason or library_problem() or (None if device is None else devices.device_problem(device))

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Build the engine for a layout and compare it with eager; see `m2d.backend.ExportingBackend`."""
        request = self._request(source, layout, options)
        root = out or options.artifacts
        relatives = [each for each in self.stored(root) if _is_relative(each.manifest, request.key)]
        return self._publish(request, partial(self._write, relatives=relatives), root=root)

    def _key(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> ArtifactKey:
        # Reading the device's facts needs the device, so `find` and `export` need it too.
        require_available(self, options.device)
        if options.batch_size > MAX_BATCH:
            raise InputError(f"batch_size: got {options.batch_size}, an engine takes {MAX_BATCH} at most")
        facts = device_facts(options.device)
        versions = key_versions(
            parse_extra(self.name, TensorRTOptions, options.extra),
            tensorrt=str(_library().__version__),
            driver_major=facts.driver_major,
            opset=graph_opset(
                options.dtype,
                head_dim=int(_config(source)["attention_head_dim"]),
                capability=facts.capability,
            ),
            makers=package_versions("m2d", "torch"),
        )
        largest = replace(options, batch_size=MAX_BATCH)
        return make_key(self.name, source, layout, largest, versions=versions, device=facts.label)

    def _load(self, folder: Path, request: GraphRequest) -> GraphCall:
        import torch

        trt = _library()
        settings = parse_extra(self.name, TensorRTOptions, request.options.extra)
        with torch.cuda.device(request.options.device):
            engine = Engine(trt, _content(folder / PLAN_FILE), _tensors(request))
            if settings.refit == "identical":
                read_graph(folder)
                refit_engine(trt, engine.native, folder / GRAPH_FILE)
            engine.start(is_streaming=settings.weight_streaming)
        return EngineCall(engine, request.output_shape, request.options.device)

    def _write(self, part: Path, request: GraphRequest, *, relatives: Sequence[StoredArtifact]) -> float:
        """Write an engine into `part`, and return its relative error."""
        import torch

        from m2d.families.loading import load_transformer
        from m2d_backends.onnx_export import export_graph

        key, options = request.key, request.options
        settings = parse_extra(self.name, TensorRTOptions, options.extra)
        dtype: torch.dtype = getattr(torch, options.dtype)
        transformer = load_transformer(
            request.source, device=options.device, dtype=dtype, loras=request.options.loras
        )
        baked = request.bake(transformer.requires_grad_(False))
        export_graph(baked, part, opset=OPSETS[key.versions["opset"]])
        with torch.cuda.device(options.device):
            built = build(_library(), part, key, settings, expected=_tensors(request), relatives=relatives)
        (part / PLAN_FILE).write_bytes(built.plan)
        (part / TIMING_FILE).write_bytes(built.timing_cache)
        run, batch_sizes = self._load(part, request), range(1, MAX_BATCH + 1)
        error = check_parity(baked, run, batch_sizes=batch_sizes, dtype=key.dtype, backend=self.name)
        if settings.refit == "none":
            # The engine holds its own weights and does not need the graph.
            for name in (GRAPH_FILE, WEIGHTS_FILE):
                (part / name).unlink(missing_ok=True)
        return error


def library_problem() -> str | None:
    """Say why the library cannot be used, or None when it can."""
    for package in ("torch", "onnx", "onnxscript", "tensorrt"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed; pip install 'm2d[tensorrt]'"
    try:
        version_of(str(_library().__version__))
    except ImportError as error:
        return f"tensorrt is installed, but its libraries do not load: {error}"
    except BackendUnavailable as error:
        return str(error).removeprefix("backend 'tensorrt': ")
    return None


def device_facts(device: str) -> DeviceFacts:
    """Return the facts about a device that an engine depends on."""
    import torch

    try:
        driver = read_bytes(_DRIVER_FILE, limit_bytes=_LONGEST_FACTS_BYTES).decode("ascii", "replace")
    except OSError:
        driver = ""
    return DeviceFacts(
        name=torch.cuda.get_device_name(device),
        capability=torch.cuda.get_device_capability(device),
        driver_major=driver_major(driver),
    )


def build(
    trt: Any,
    part: Path,
    key: ArtifactKey,
    settings: TensorRTOptions,
    *,
    expected: tuple[TensorFacts, ...],
    relatives: Sequence[StoredArtifact],
) -> BuiltEngine:
    """Build the engine of the graph in `part`, or refit one that differs in its weights alone.

    The relatives are engines of the same library and device; each is verified before use.
    """
    timings = b""
    for each in relatives:
        try:
            open_artifact(each.folder, each.manifest)
        except ArtifactRefused as error:
            # Building goes on without its timings and kernels.
            logger.warning("tensorrt: not used for this build: %s", error)
            continue
        timings = timings or _content(each.folder / TIMING_FILE)
        if settings.refit == "weights" and _differs_in_weights_alone(each, key, part):
            engine = Engine(trt, _content(each.folder / PLAN_FILE), expected)
            refit_engine(trt, engine.native, part / GRAPH_FILE)
            logger.info("tensorrt: %s refitted", each.folder)
            return BuiltEngine(serialize_refitted(trt, engine.native), timings)
    return build_engine(
        trt,
        part / GRAPH_FILE,
        profiles=profiles(expected),
        options=settings,
        version=version_of(str(trt.__version__)),
        timing_cache=timings,
    )


def _content(path: Path) -> bytes:
    return read_bytes(path, limit_bytes=memory_limit_bytes(), follow=False)


def _is_relative(made: ArtifactKey, key: ArtifactKey) -> bool:
    """Whether two engines share kernel timings: they have the same device and library."""
    return made.device == key.device and made.versions.get("tensorrt") == key.versions["tensorrt"]


def _differs_in_weights_alone(made: StoredArtifact, key: ArtifactKey, part: Path) -> bool:
    if replace(made.manifest, weights_digest=key.weights_digest) != key:
        return False
    return structure_digest(read_graph(made.folder)) == structure_digest(read_graph(part))


def _tensors(request: GraphRequest) -> tuple[TensorFacts, ...]:
    layout, width = request.layout, int(_config(request.source)["text_embed_dim"])
    shapes = (request.key.latent_shape, (layout.num_text_tokens, width), (layout.num_scenes,))
    return expected_tensors(shapes, request.output_shape, request.key.dtype)


def _config(source: ModelSource) -> Mapping[str, Any]:
    from m2d.model.components import read_config

    return read_config(source.path, "transformer")


def _library() -> Any:
    import tensorrt

    return tensorrt
