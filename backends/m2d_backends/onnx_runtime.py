"""The ONNX backend: exported graphs, run by ONNX Runtime on the CPU or a CUDA device.

Owns exporting, finding and preparing graphs; their content is `m2d_backends.onnx_graph`'s, the session
`m2d_backends.onnx_session`'s.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

import importlib.util
import logging
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakSet

from m2d.backend import BackendOptions, StoredArtifact
from m2d.errors import BackendUnavailable, ExportError, InputError
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
from m2d_backends.artifact_key import key_digest
from m2d_backends.devices import device_problem
from m2d_backends.graph_denoiser import GraphDenoiser
from m2d_backends.onnx_graph import MAX_BATCH, OPSETS, ROTARY_OPSET, Opset, read_graph
from m2d_backends.onnx_session import (
    GraphSession,
    chosen_provider,
    provider_problem,
    runtime_problem,
    settings_from,
)

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.model.source import ModelSource
    from m2d_backends.baked import BakedTransformer

logger = logging.getLogger(__name__)

OPTIONS = ("provider", "threads", "opset")
# The same float32 arithmetic in another order.
MAX_ERROR = 1e-5
_PARITY_SEED = 5


class OnnxBackend:
    """Runs exported graphs through ONNX Runtime, on the provider asked for and on no other."""

    name: ClassVar[str] = "onnx"
    not_yet_run: ClassVar[str] = (
        "the CPU provider runs in every test; the CUDA and TensorRT providers are written against ONNX "
        "Runtime's documentation and have not run on hardware yet"
    )

    def __init__(self) -> None:
        """Start with nothing loaded."""
        self._prepared: dict[tuple[Path, str, str], tuple[GraphSession, WeakSet[GraphDenoiser]]] = {}

    def unavailable_reason(self, device: str | None = None) -> str | None:
        """Say why ONNX Runtime cannot run here, or on `device`; see `m2d.backend.Backend`."""
        reason = runtime_problem()
        if reason is not None or device in (None, "cpu"):
            return reason
        if not str(device).startswith("cuda"):
            return device_problem(str(device))
        import onnxruntime

        reason = provider_problem("cuda", onnxruntime.get_available_providers())
        return reason or device_problem(str(device))

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> GraphDenoiser:
        """Load the exported graph for a layout, verified first; see `m2d.backend.Backend`."""
        self._require(options.device)
        settings = settings_from(options)
        key = self._key(source, layout, options)
        folder = self._folder(source, layout, options, key)
        # The key is part of it: a graph that is loaded for one story or model must not serve another.
        place = (folder, key_digest(key), repr(settings))
        if place not in self._prepared:
            open_artifact(folder, key, is_native=False)
            read_graph(folder)
            self._prepared[place] = (GraphSession(folder, settings), WeakSet())
        session, denoisers = self._prepared[place]
        # The graph takes one or two as they come: batches are cut to what is asked for, never filled up.
        denoiser = GraphDenoiser(
            _call(session, key, layout), layout, replace(key, batch_size=options.batch_size)
        )
        denoisers.add(denoiser)
        return denoiser

    def release(self) -> None:
        """Let go of all sessions; see `m2d.backend.Backend`."""
        for _, denoisers in self._prepared.values():
            for denoiser in denoisers:
                denoiser.release()
        self._prepared.clear()

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        """Write the graph for a layout, compared with eager; see `m2d.backend.ExportingBackend`."""
        self._require("cpu")
        if importlib.util.find_spec("onnxscript") is None:
            raise BackendUnavailable(
                "backend 'onnx': exporting needs the package onnxscript; pip install 'm2d[onnx]'"
            )
        key = self._key(source, layout, options)
        folder = default_folder(key, label=label_of(source, layout), root=out or options.artifacts)
        opset = OPSETS[key.versions["opset"]]
        return publish_artifact(folder, key, lambda part: _write(part, source, layout, key, opset))

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        """Return the folder of the graph that `prepare` would run; see `m2d.backend.ExportingBackend`."""
        key = self._key(source, layout, options)
        folder = self._folder(source, layout, options, key)
        inspect_artifact(folder, key, is_native=False)
        return folder

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        """List exported graphs; see `m2d.backend.ExportingBackend`."""
        return stored_artifacts(self.name, folder)

    def _require(self, device: str) -> None:
        reason = self.unavailable_reason(device)
        if reason is not None:
            raise BackendUnavailable(f"backend {self.name!r}: {reason}")

    def _key(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> ArtifactKey:
        _check_extra(options)
        # No graph is for one provider; but it is told before anybody exports one for it.
        chosen_provider(options)
        if options.batch_size > MAX_BATCH:
            raise InputError(f"batch_size: got {options.batch_size}, a graph takes {MAX_BATCH} at most")
        opset = options.extra.get("opset", "23")
        if opset not in OPSETS:
            raise InputError(f"opset: got {opset!r}, allowed: {', '.join(OPSETS)}")
        versions = {"opset": opset, **package_versions("m2d", "torch")}
        # One graph serves every device and both batches: it is data, compiled by nobody.
        portable = replace(options, batch_size=MAX_BATCH)
        return make_key(self.name, source, layout, portable, versions=versions, device="any")

    def _folder(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, key: ArtifactKey
    ) -> Path:
        return locate(key, label=label_of(source, layout), root=options.artifacts)


def _check_extra(options: BackendOptions) -> None:
    unknown = sorted(set(options.extra) - set(OPTIONS))
    if unknown:
        raise InputError(f"backend 'onnx': unknown options {unknown}; it knows {', '.join(OPTIONS)}")


def _call(session: GraphSession, key: ArtifactKey, layout: SceneLayout) -> _GraphCall:
    frames = sum(layout.latent_frames[scene] for scene in key.targets)
    return _GraphCall(session, (frames, *key.latent_shape[1:]))


class _GraphCall:
    """A session as the function that `GraphDenoiser` calls."""

    def __init__(self, session: GraphSession, output_shape: tuple[int, ...]) -> None:
        self._session = session
        self._output_shape = output_shape

    def __call__(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        from m2d_backends.denoiser_inputs import DenoiserInputs

        inputs = DenoiserInputs(latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        return self._session.run(inputs, (latents_BFCHW.shape[0], *self._output_shape))


def _write(part: Path, source: ModelSource, layout: SceneLayout, key: ArtifactKey, opset: Opset) -> float:
    """Write the graph into `part`, and return its relative error in float32."""
    from m2d_backends.onnx_export import export_graph

    write = partial(export_graph, opset=opset, has_rotary_operator=opset >= ROTARY_OPSET)
    if key.dtype == "float32":
        baked = _bake(source, layout, key, "float32")
        write(baked, part)
        return compare(baked, part)
    # The CPU cannot run other dtypes: what the graph computes is checked in float32, then written in its own.
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".parity-") as folder:
        baked = _bake(source, layout, key, "float32")
        write(baked, Path(folder))
        error = compare(baked, Path(folder))
        del baked
    write(_bake(source, layout, key, key.dtype), part)
    return error


def _bake(source: ModelSource, layout: SceneLayout, key: ArtifactKey, dtype: str) -> BakedTransformer:
    import torch

    from m2d.model.checkpoint import load_transformer
    from m2d_backends.baked import BakedTransformer

    transformer = load_transformer(source, device="cpu", dtype=getattr(torch, dtype))
    transformer.eval().requires_grad_(False)
    return BakedTransformer(transformer, layout, latent_shape=key.latent_shape, targets=key.targets).eval()


def compare(baked: BakedTransformer, folder: Path) -> float:
    """Run a float32 graph and its model on the CPU, at every batch that the graph takes.

    Returns:
        The largest difference as a share of the largest output.

    Raises:
        ExportError: The graph does not compute the same.
    """
    import torch

    settings = settings_from(BackendOptions())
    session = GraphSession(folder, settings)
    worst = 0.0
    for batch in range(1, MAX_BATCH + 1):
        inputs = baked.example_inputs(batch, torch.float32, "cpu", _PARITY_SEED + batch)
        with torch.inference_mode():
            expected = baked(*inputs)
        difference = (session.run(inputs, tuple(expected.shape)) - expected).abs().max().item()
        peak = expected.abs().max().item()
        # Written so that NaN fails.
        if not difference <= MAX_ERROR * max(1.0, peak):
            raise ExportError(
                f"the graph differs from the eager model by {difference:.2e} at batch {batch}; "
                f"allowed are {MAX_ERROR:.0e}"
            )
        worst = max(worst, difference / peak if peak else difference)
    return worst
