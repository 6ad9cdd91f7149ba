"""Which graphs a story needs, the command that makes each, and refusing to run without them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from m2d.backend import Backend, BackendOptions, Denoiser, ExportManifest, StoredArtifact
from m2d.cli.main import app
from m2d.errors import ArtifactMissing, ArtifactRefused, BackendUnavailable, InputError
from m2d.families.source import ModelSource
from m2d.geometry import GeometryError
from m2d.layout import LayoutError, SceneLayout
from m2d.pipeline.graphs import MissingGraphs, RejectedGraphs, check_graphs, graphs_of
from m2d.progress import SilentReporter
from m2d.registry import get_backend
from m2d.tasks import export
from m2d.tasks.export import StoryShape, command_for, export_commands, graph_of
from tests.m2d.tasks.studio import Studio, open_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@dataclass(kw_only=True)
class Shelf:
    """An exporting backend that writes nothing and remembers what it was asked for."""

    name: ClassVar[str] = "shelf"
    problem: str | None = None
    stale: set[str] = field(default_factory=set)
    there: dict[tuple[str, tuple[int, ...] | None], int] = field(default_factory=dict)

    def unavailable_reason(self, device: str | None = None) -> str | None:
        del device
        return self.problem

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        del source, layout, options
        raise AssertionError("nothing is run here")

    def release(self) -> None: ...

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        del source
        if layout.digest() in self.stale:
            raise ArtifactRefused("is key aaa, wanted is bbb; versions: artifact 1, wanted 2")
        if (layout.digest(), options.targets) not in self.there:
            raise ArtifactMissing("no graph is exported for this")
        return Path("there")

    def export(
        self, source: ModelSource, layout: SceneLayout, options: BackendOptions, *, out: Path | None = None
    ) -> StoredArtifact:
        self.there[layout.digest(), options.targets] = options.batch_size
        manifest = ExportManifest(
            backend=self.name,
            weights_digest=source.digest,
            layout_digest=layout.digest(),
            latent_shape=(1, 1, 1, 1),
            batch_size=options.batch_size,
            targets=(0,),
            dtype=options.dtype,
            device=options.device,
            versions={},
        )
        return StoredArtifact(
            folder=(out or Path("cache")) / "made", manifest=manifest, size_bytes=1, relative_error=0.0
        )

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        del folder
        return ()


def test_a_story_of_one_window_needs_one_graph_for_both_guidance_predictions(studio: Studio) -> None:
    (graph,) = graphs_of([studio.plan(3)])
    assert graph.layout == studio.plan(3).windows[0].layout
    assert (graph.options.batch_size, graph.options.targets) == (2, None)
    assert graph.options.latent_size == (4, 4)


def test_a_long_story_needs_every_window_s_graph_once(studio: Studio) -> None:
    plan = studio.plan(6)
    graphs = graphs_of([plan, plan])
    assert [graph.options.targets for graph in graphs] == [None, (2,)]
    assert len(plan.windows) > len(graphs)


def test_without_guidance_or_with_it_in_two_passes_a_batch_of_one_is_enough(studio: Studio) -> None:
    for sampling in ({"guidance_scale": 1.0}, {"cfg": "sequential"}):
        (graph,) = graphs_of([studio.plan(2, sampling=sampling)])
        assert graph.options.batch_size == 1


def test_a_story_is_not_begun_without_its_graphs_and_the_commands_are_told(studio: Studio) -> None:
    plan = studio.plan(6)
    with pytest.raises(MissingGraphs, match="no graph is exported") as raised:
        check_graphs([plan], Shelf())
    commands = export_commands(raised.value).splitlines()
    assert commands == [command_for(graph, "shelf") for graph in graphs_of([plan])]
    assert raised.value.exit_code == 3


def test_a_stale_graph_is_refused_with_what_differs_and_the_command(studio: Studio) -> None:
    plan = studio.plan(3)
    with pytest.raises(RejectedGraphs, match=r"is key aaa, wanted is bbb") as raised:
        check_graphs([plan], Shelf(stale={plan.layout.digest()}))
    assert export_commands(raised.value).startswith("m2d export --backend shelf")
    assert raised.value.exit_code == 2


def test_a_backend_that_runs_the_model_itself_needs_no_graph(studio: Studio) -> None:
    check_graphs([studio.plan(6)], get_backend("eager"))


@pytest.mark.parametrize("num_scenes", [1, 3, 6])
def test_the_command_asks_for_exactly_the_graph_that_is_missing(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, num_scenes: int
) -> None:
    asked: list[export.GraphRequest] = []

    def run(requests: Any, backend: Backend, **_: Any) -> tuple[()]:
        del backend
        asked.extend(requests)
        return ()

    monkeypatch.setattr(export, "run", run)
    monkeypatch.setattr("m2d.registry.get_backend", lambda _: Shelf())
    wanted = graphs_of(
        [studio.plan(num_scenes, scenes=[{"prompt": "a sea", "frames": 9}, *["a ball"] * (num_scenes - 1)])]
    )
    for graph in wanted:
        app(shlex.split(command_for(graph, "shelf"))[1:], standalone_mode=False)
    assert [(graph.layout, graph.options) for graph in asked] == [
        (graph.layout, graph.options) for graph in wanted
    ]


def test_what_is_there_is_exported_again_only_when_asked(studio: Studio) -> None:
    graphs, shelf = graphs_of([studio.plan(6)]), Shelf()
    first = export.run(graphs, shelf, reporter=SilentReporter(), out=Path("exports"))
    assert [each.folder for each in first] == [Path("exports/made")] * 2
    again = export.run(graphs, shelf, reporter=SilentReporter())
    assert [(each.folder, each.artifact) for each in again] == [(Path("there"), None)] * 2
    forced = export.run(graphs, shelf, reporter=SilentReporter(), force=True)
    assert all(each.artifact is not None for each in forced)


def test_a_stale_graph_is_exported_anew(studio: Studio) -> None:
    graphs = graphs_of([studio.plan(3)])
    shelf = Shelf(stale={graphs[0].layout.digest()})
    (made,) = export.run(graphs, shelf, reporter=SilentReporter())
    assert made.artifact is not None


def test_backends_that_cannot_export_are_refused(studio: Studio) -> None:
    graphs = graphs_of([studio.plan(3)])
    with pytest.raises(InputError, match=r"^backend: eager runs the model itself"):
        export.run(graphs, get_backend("eager"), reporter=SilentReporter())
    with pytest.raises(BackendUnavailable, match="backend 'shelf': no library"):
        export.run(graphs, Shelf(problem="no library"), reporter=SilentReporter())


SHAPE = StoryShape(num_scenes=3, frames=(9,), size=(32, 64), mask="mask2dit")


def test_a_story_without_a_recipe_has_its_sizes_from_the_model(studio: Studio) -> None:
    graph = graph_of(studio.source, replace(SHAPE, targets=(1, 2)), BackendOptions())
    assert graph.layout.latent_frames == (3, 3, 3)
    assert graph.options.latent_size == (8, 16)
    assert graph.options.targets == (1, 2)
    assert graph.label == "3 scenes of 32x64, mask2dit, making 2, 3"
    assert (
        graph_of(studio.source, replace(SHAPE, targets=(0, 1, 2)), BackendOptions()).options.targets is None
    )


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"frames": (9, 5)}, InputError, "^frames: 2 numbers for 3 scenes"),
        ({"frames": (8,)}, GeometryError, r"num_frames: 8 is not 4k\+1; use 5 or 9"),
        ({"size": (33, 64)}, GeometryError, "height: 33 is not a positive multiple of 8"),
        ({"mask": "striped"}, LayoutError, "striped"),
        ({"targets": (1, 3)}, InputError, r"^targets: \[4\]; the story has scenes 1 to 3"),
    ],
)
def test_a_story_that_the_model_cannot_make_is_refused(
    studio: Studio, change: dict[str, Any], error: type[InputError], message: str
) -> None:
    with pytest.raises(error, match=message):
        graph_of(studio.source, replace(SHAPE, **change), BackendOptions())
