"""Export: write the graphs that a story needs, for backends that run only exported graphs.

Owns which graphs are exported and the command that exports a missing one; the backend writes them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m2d.backend import ARTIFACT_MANIFEST, Backend, BackendOptions, ExportingBackend, StoredArtifact
from m2d.backend_checks import require_available
from m2d.errors import ArtifactMissing, ArtifactRefused, BackendUnavailable, InputError
from m2d.families.loras import find_lora
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.model.lora_file import LoraUse
from m2d.pipeline.graphs import GraphRequest, MissingGraphs, RejectedGraphs
from m2d.pipeline.planning import check_model
from m2d.progress import Reporter
from m2d.recipe.schema import LoraChoice


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedGraph:
    """A requested graph in `folder`; `artifact` is None if a valid graph existed."""

    request: GraphRequest
    folder: Path
    artifact: StoredArtifact | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryShape:
    """The sizes of a story, without a recipe.

    Attributes:
        frames: Number of frames of every scene of a window, or one number for all.
        size: Height and width in pixels.
        targets: Target scenes, from 0; None for all.
    """

    num_scenes: int
    frames: tuple[int, ...]
    size: tuple[int, int]
    mask: str
    targets: tuple[int, ...] | None = None


def graph_of(source: ModelSource, shape: StoryShape, options: BackendOptions) -> GraphRequest:
    """Return the request for the graph of a story without a recipe; size and targets are those of `shape`.

    Raises:
        InputError: The numbers contradict each other, the mask is unknown, or the model cannot make the size.
    """
    frames = shape.frames * shape.num_scenes if len(shape.frames) == 1 else shape.frames
    if shape.num_scenes < 1 or len(frames) != shape.num_scenes:
        raise InputError(
            f"{len(frames)} numbers for {shape.num_scenes} scenes; give one, or one each", argument="frames"
        )
    height, width = shape.size
    scenes = [source.geometry.scene(num_frames=count, height=height, width=width) for count in frames]
    layout = SceneLayout.build(
        shape.mask,
        text_tokens=[source.geometry.max_text_tokens] * len(scenes),
        latent_frames=[scene.num_latent_frames for scene in scenes],
        tokens_per_frame=scenes[0].tokens_per_frame,
        frames_per_token=scenes[0].frames_per_token,
    )
    outside = [scene + 1 for scene in shape.targets or () if not 0 <= scene < shape.num_scenes]
    if outside:
        raise InputError(f"{outside}; the story has scenes 1 to {shape.num_scenes}", argument="targets")
    everything = shape.targets is not None and len(shape.targets) == shape.num_scenes
    sized = replace(
        options,
        latent_size=(scenes[0].latent_height, scenes[0].latent_width),
        targets=None if everything else shape.targets,
    )
    return GraphRequest(source=source, layout=layout, options=sized)


def loras_of(source: ModelSource, choices: Sequence[LoraChoice]) -> tuple[LoraUse, ...]:
    """Find LoRAs of all scenes; raises as `find_lora`."""
    return tuple(LoraUse(file=find_lora(source, choice), scale=choice.scale) for choice in choices)


def run(
    requests: Sequence[GraphRequest],
    backend: Backend,
    *,
    reporter: Reporter,
    out: Path | None = None,
    force: bool = False,
) -> tuple[ExportedGraph, ...]:
    """Export graphs, except those that exist.

    Args:
        requests: The graphs, from `graphs_of` or `graph_of`.
        out: Folder of the artifacts; None is the user's cache.
        force: Whether an existing valid graph is exported again.

    Raises:
        InputError: The backend exports no graphs.
        BackendUnavailable: The backend cannot run here.
        CheckpointError: The model folder could not be loaded; nothing is written.
        SchedulerError: Its scheduler could not sample.
        ExportError: A graph cannot be exported, or computes other values than eager.
    """
    if not isinstance(backend, ExportingBackend):
        raise InputError(f"{backend.name} runs the model itself and exports nothing", argument="backend")
    require_available(backend, requests[0].options.device)
    for source in {id(request.source): request.source for request in requests}.values():
        check_model(source)
    exported = []
    for request in requests:
        request = replace(request, options=replace(request.options, artifacts=out))
        existing = None if force else _existing(backend, request)
        if existing is not None:
            exported.append(ExportedGraph(request=request, folder=existing, artifact=None))
            continue
        with reporter.stage(f"export {request.label}"):
            artifact = backend.export(request.source, request.layout, request.options, out=out)
        exported.append(ExportedGraph(request=request, folder=artifact.folder, artifact=artifact))
    backend.release()
    return tuple(exported)


def export_commands(error: MissingGraphs | RejectedGraphs) -> str:
    """Return the commands that export the graphs that a run lacks, one per line."""
    return "\n".join(command_for(request, error.backend) for request in error.requests)


def command_for(request: GraphRequest, backend: str) -> str:
    """Return the command that exports a graph."""
    options = request.options
    words = ["m2d", "export", "--backend", backend, "--model", request.source.name]
    for name, place in request.source.choice.parts.items():
        words += [f"--{name.replace('_', '-')}", place]
    if any(use.scenes for use in options.loras):
        # Only a recipe can name the scenes of a LoRA.
        words += ["--recipe", "STORY"]
    else:
        words += _shape_words(request)
    if options.device != "cpu":
        words += ["--device", options.device]
    if options.dtype != "float32":
        words += ["--dtype", options.dtype]
    for name, value in options.extra.items():
        words += ["--backend-option", f"{name}={value}"]
    if options.artifacts is not None:
        is_artifact = (options.artifacts / ARTIFACT_MANIFEST).is_file()
        words += ["--out", str(options.artifacts.parent if is_artifact else options.artifacts)]
    return shlex.join(words)


def _shape_words(request: GraphRequest) -> list[str]:
    """Return the flags that describe the LoRAs and the shape of a graph."""
    geometry, layout, options = request.source.geometry, request.layout, request.options
    height, width = (side * geometry.spatial_compression for side in options.latent_size or (0, 0))
    frames = [geometry.num_frames(count) for count in layout.latent_frames]
    words: list[str] = []
    for use in options.loras:
        words += ["--lora", f"{use.file.path}:{use.scale!r}"] if use.scenes is None else []
    words += ["--scenes", str(layout.num_scenes)]
    words += ["--frames", ",".join(map(str, frames if len(set(frames)) > 1 else frames[:1]))]
    words += ["--size", f"{height}x{width}", "--mask", layout.mask, "--batch", str(options.batch_size)]
    if options.targets is not None:
        words += ["--targets", ",".join(str(scene + 1) for scene in options.targets)]
    return words


def _existing(backend: ExportingBackend, request: GraphRequest) -> Path | None:
    try:
        return backend.find(request.source, request.layout, request.options)
    except (ArtifactMissing, ArtifactRefused, BackendUnavailable):
        # An outdated or corrupt graph is exported again; a missing one, also for a device that is elsewhere.
        return None
