"""The exported graphs that run plans need, one for each different window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from m2d.backend import Backend, BackendOptions, ExportingBackend
from m2d.errors import ArtifactMissing, ArtifactRefused, BackendError
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.pipeline.window import window_options
from m2d.recipe.plan import RunPlan
from m2d.video.printable import counted


class _GraphsToExport(BackendError):
    """Graphs have to be exported before a run; `backend` is the name of the backend that would run them."""

    def __init__(self, message: str, *, backend: str, requests: Sequence[GraphRequest]) -> None:
        super().__init__(message)
        self.backend, self.requests = backend, tuple(requests)


class MissingGraphs(_GraphsToExport, ArtifactMissing):
    """A run needs graphs that were not exported."""


class RejectedGraphs(_GraphsToExport, ArtifactRefused):
    """A run needs graphs that were exported but cannot be used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphRequest:
    """What a backend prepares a denoiser for, or exports as a graph."""

    source: ModelSource
    layout: SceneLayout
    options: BackendOptions

    @property
    def label(self) -> str:
        """In short, for people, height before width: `3 scenes of 480x720, mask2dit, making 3`."""
        height, width = self.options.latent_size or (0, 0)
        step = self.source.geometry.spatial_compression
        scenes = counted(self.layout.num_scenes, "scene")
        targets = self.options.targets
        made = "" if targets is None else f", making {', '.join(str(scene + 1) for scene in targets)}"
        return f"{scenes} of {height * step}x{width * step}, {self.layout.mask}{made}"


def graphs_of(plans: Iterable[RunPlan]) -> tuple[GraphRequest, ...]:
    """The graphs that runs need, each once, in the order of the windows."""
    wanted: dict[tuple[object, ...], GraphRequest] = {}
    for plan in plans:
        for part in plan.windows:
            options = window_options(plan, part)
            named = (part.layout.digest(), options.targets, options.batch_size, options.latent_size)
            wanted.setdefault(named, GraphRequest(source=plan.source, layout=part.layout, options=options))
    return tuple(wanted.values())


def check_graphs(plans: Iterable[RunPlan], backend: Backend) -> None:
    """Make sure, before any work is done, that a backend has every graph that runs need.

    Raises:
        MissingGraphs: Some were not exported.
        RejectedGraphs: One is outdated, corrupt, made for another machine or not to be trusted.
    """
    if not isinstance(backend, ExportingBackend):
        return
    problems: list[tuple[ArtifactMissing | ArtifactRefused, GraphRequest]] = []
    for request in graphs_of(plans):
        try:
            backend.find(request.source, request.layout, request.options)
        except (ArtifactMissing, ArtifactRefused) as error:
            problems.append((error, request))
    if not problems:
        return
    is_rejected = any(isinstance(error, ArtifactRefused) for error, _ in problems)
    raise (RejectedGraphs if is_rejected else MissingGraphs)(
        "\n".join(str(error) for error, _ in problems),
        backend=backend.name,
        requests=[request for _, request in problems],
    ) from problems[0][0]
