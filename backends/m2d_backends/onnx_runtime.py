"""The ONNX backend: exported graphs, run by ONNX Runtime on the CPU or a CUDA device.

Owns exporting and loading graphs; their content is `m2d_backends.onnx_graph`'s, the session
`m2d_backends.onnx_session`'s.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from m2d.backend import BackendOptions, StoredArtifact
from m2d.backend_checks import require_available
from m2d.errors import ArtifactMissing, BackendUnavailable, InputError
from m2d.layout import SceneLayout
from m2d_backends.artifact_key import ArtifactKey, make_key, package_versions
from m2d_backends.devices import device_problem
from m2d_backends.graph_backend import GraphBackend, GraphCall, GraphDenoiser, GraphRequest
from m2d_backends.onnx_graph import MAX_BATCH, OPSETS, ROTARY_OPSET, read_graph
from m2d_backends.onnx_session import (
    GraphSession,
    load_runtime,
    parse_options,
    provider_problem,
    runtime_problem,
    settings_from,
)
from m2d_backends.parity import check_parity

if TYPE_CHECKING:
    from m2d.families.source import ModelSource
    from m2d_backends.baked import BakedTransformer


class OnnxBackend(GraphBackend):
    """Runs exported graphs with ONNX Runtime, on the requested execution provider only."""

    name: ClassVar[str] = "onnx"
    keeps_all: ClassVar[bool] = True
    not_yet_run: ClassVar[str] = (
        "the CPU provider runs in every test; the CUDA and TensorRT providers are written against ONNX "
        "Runtime's documentation and have not run on hardware yet"
    )

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why ONNX Runtime cannot run here, or on `device`; see `m2d.backend.Backend`."""
        reason = runtime_problem()
        if reason is not None or device in (None, "cpu"):
            return reason
        if not str(device).startswith("cuda"):
            return device_problem(str(device))
        reason = provider_problem("cuda", load_runtime().get_available_providers())
        return reason or device_problem(str(device))

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> GraphDenoiser:
        """Load the graph of this layout and size; see `m2d.backend.Backend`."""
        require_available(self, options.device)
        # Before a graph is looked for: nothing is exported for settings that cannot run.
        settings_from(options)
        return super().prepare(source, layout, options)

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the folder of the graph that `prepare` would run; see `m2d.backend.ExportingBackend`."""
        try:
            return super().find(source, layout, options)
        except ArtifactMissing:
            # The user is not sent to export what cannot run here.
            settings_from(options)
            raise

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Write the graph for a layout, compared with eager; see `m2d.backend.ExportingBackend`."""
        # Tracing and comparing run on the CPU, whatever device the graph is for.
        require_available(self, "cpu")
        if importlib.util.find_spec("onnxscript") is None:
            raise BackendUnavailable(
                "backend 'onnx': exporting needs the package onnxscript; pip install 'm2d[onnx]'"
            )
        return self._publish(self._request(source, layout, options), _write, root=out or options.artifacts)

    def _key(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> ArtifactKey:
        # The graph is the same for every provider, but a wrong one is reported before exporting.
        opset = parse_options(options).opset
        if options.batch_size > MAX_BATCH:
            raise InputError(f"batch_size: got {options.batch_size}, a graph takes {MAX_BATCH} at most")
        versions = {"opset": opset, **package_versions("m2d", "torch")}
        # One graph serves every device and both batches: it holds no compiled code.
        portable = replace(options, batch_size=MAX_BATCH)
        return make_key(self.name, source, layout, portable, versions=versions, device="any")

    def _load(self, folder: Path, request: GraphRequest) -> GraphCall:
        read_graph(folder)
        return GraphSession(folder, settings_from(request.options), request.output_shape)


def _write(part: Path, request: GraphRequest) -> float:
    """Write the graph into `part`, and return its relative error in float32."""
    from m2d_backends.onnx_export import export_graph

    key = request.key
    opset = OPSETS[key.versions["opset"]]
    write = partial(export_graph, opset=opset, has_rotary_operator=opset >= ROTARY_OPSET)
    if key.dtype == "float32":
        baked = _bake(request, "float32")
        write(baked, part)
        return compare(baked, part)
    # The CPU cannot run other dtypes: the graph is compared in float32, then written in its own dtype.
    # In the unpublished folder, which the next export removes if this one is killed.
    with tempfile.TemporaryDirectory(dir=part) as folder:
        baked = _bake(request, "float32")
        write(baked, Path(folder))
        error = compare(baked, Path(folder))
        del baked
    write(_bake(request, key.dtype), part)
    return error


def _bake(request: GraphRequest, dtype: str) -> BakedTransformer:
    import torch

    from m2d.families.loading import load_transformer

    transformer = load_transformer(
        request.source, device="cpu", dtype=getattr(torch, dtype), loras=request.options.loras
    )
    return request.bake(transformer.requires_grad_(False))


def compare(baked: BakedTransformer, folder: Path) -> float:
    """Run a float32 graph and its model on the CPU; see `check_parity`."""
    # The CPU provider allocates the output itself and needs no shape.
    run = GraphSession(folder, settings_from(BackendOptions()), ())
    return check_parity(baked, run, batch_sizes=range(1, MAX_BATCH + 1), dtype="float32", backend="onnx")
