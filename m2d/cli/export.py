"""`m2d export`: export the graphs that a backend needs for a story."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.options import (
    BackendSettings,
    DtypeOption,
    LoraOption,
    QuietFlag,
    ResultJsonFlag,
    parse_loras,
    parse_options,
)
from m2d.errors import InputError
from m2d.limits import MOST_SCENES

if TYPE_CHECKING:
    from m2d.backend import BackendOptions
    from m2d.families.source import ModelSource
    from m2d.recipe.model_choice import ModelChoice
    from m2d.recipe.plan import RunPlan
    from m2d.tasks.export import ExportedGraph, StoryShape


@with_options(ModelOptions)
def export(
    backend: Annotated[
        str, typer.Option("--backend", metavar="NAME", help="Backend of the graph: aot, onnx or tensorrt.")
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="STORY", help="Story whose graphs are exported.")
    ] = None,
    scenes: Annotated[
        int | None,
        typer.Option(
            "--scenes", min=1, max=MOST_SCENES, metavar="N", help="Number of scenes, without a recipe."
        ),
    ] = None,
    frames: Annotated[
        str | None, typer.Option("--frames", metavar="N", help="Frames per scene: 49, or one each: 49,25.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", metavar="HxW", help="Height and width in pixels, such as 480x720.")
    ] = None,
    mask: Annotated[str, typer.Option("--mask", metavar="NAME", help="Attention mask.")] = "mask2dit",
    context: Annotated[
        int,
        typer.Option(
            "--context", max=MOST_SCENES, metavar="N", help="Number of leading scenes that are clean context."
        ),
    ] = 0,
    targets: Annotated[
        str | None, typer.Option("--targets", metavar="N,N", help="Scenes to generate, counted from 1.")
    ] = None,
    batch: Annotated[
        int,
        typer.Option("--batch", max=1024, metavar="N", help="Batch size: 2 with batched guidance, else 1."),
    ] = 2,
    lora: LoraOption = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Device of the graph: cpu, cuda, cuda:1.")
    ] = None,
    dtype: DtypeOption = None,
    backend_option: BackendSettings = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Folder of the graphs, instead of m2d's cache."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing graphs.")] = False,
    as_json: ResultJsonFlag = False,
    quiet: QuietFlag = False,
    *,
    options: ModelOptions,
) -> None:
    """Export the graphs that a backend needs for a story.

    Give a recipe, or --scenes, --frames and --size. Every graph is compared with the eager model before it is
    stored. The folders of the graphs go to stdout.
    """
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.families.source import resolve_model
    from m2d.recipe.fields import DEFAULT_MODEL
    from m2d.registry import get_backend

    extra = parse_options(backend_option)
    flags = _Flags(scenes=scenes, frames=frames, size=size, mask=mask, context=context, targets=targets)
    flags.check(recipe)
    writer, reporter = get_backend(backend), make_reporter(quiet=quiet)
    loras = parse_loras(lora)
    given = {"downloads": reporter, "backend": backend, "device": device, "dtype": dtype}
    given |= {"backend_options": extra, "loras": loras}
    # A recipe is checked before the imports below, which take seconds.
    planned = None if recipe is None else _plan(recipe, model=options.choice, given=given)
    with loading_libraries(reporter):
        from m2d.tasks import export as task
    if planned is not None:
        from m2d.pipeline.graphs import graphs_of

        requests = graphs_of([planned])
    else:
        source = resolve_model(options.choice or DEFAULT_MODEL, downloads=reporter)
        requests = (task.graph_of(source, flags.shape(), _graph_options(given, batch, source)),)
    _show(task.run(requests, writer, reporter=reporter, out=out, force=force), as_json=as_json)


def _graph_options(given: Mapping[str, Any], batch: int, source: ModelSource) -> BackendOptions:
    from m2d.backend import BackendOptions
    from m2d.tasks.export import loras_of

    return BackendOptions(
        device=given["device"] or "cpu",
        # BackendOptions checks the name.
        dtype=given["dtype"] or "float32",
        batch_size=batch,
        extra=given["backend_options"],
        loras=loras_of(source, given["loras"] or ()),
    )


def _plan(recipe: Path, *, model: ModelChoice | None, given: Mapping[str, Any]) -> RunPlan:
    from m2d.pipeline.planning import plan_recipe
    from m2d.recipe.overrides import Overrides

    return plan_recipe(recipe, model=model, overrides=Overrides(**given))


@dataclass(frozen=True, kw_only=True)
class _Flags:
    """The flags that describe the shape of a story."""

    scenes: int | None
    frames: str | None
    size: str | None
    mask: str
    context: int
    targets: str | None

    def check(self, recipe: Path | None) -> None:
        """Raise InputError unless either a recipe or a complete shape is given."""
        shape = {"--scenes": self.scenes, "--frames": self.frames, "--size": self.size}
        given = [name for name, value in shape.items() if value is not None]
        others = {"--context": self.context, "--targets": self.targets}
        given_others = [name for name, value in others.items() if value]
        if recipe is not None and (given or given_others):
            names = ", ".join(given + given_others)
            raise InputError(f"--recipe, {names}: both given; the recipe has its own shape")
        if recipe is None and len(given) < len(shape):
            missing = ", ".join(name for name in shape if name not in given)
            raise InputError(f"{missing}: missing; give a story with --recipe, or all of {', '.join(shape)}")
        if len(given_others) > 1:
            raise InputError(
                "--context, --targets: both given; --targets alone selects the scenes to generate"
            )

    def shape(self) -> StoryShape:
        """Parse the numbers; raise InputError for anything else."""
        from m2d.tasks.export import StoryShape

        scenes = self.scenes or 0
        if not 0 <= self.context < max(scenes, 1):
            raise InputError(
                f"--context {self.context}: at least one of the {scenes} scenes must be generated"
            )
        made = _numbers("--targets", self.targets) if self.targets else ()
        targets = tuple(sorted({number - 1 for number in made})) or tuple(range(self.context, scenes))
        return StoryShape(
            num_scenes=scenes,
            frames=_numbers("--frames", self.frames or ""),
            size=_size(self.size or ""),
            mask=self.mask,
            targets=targets,
        )


def _numbers(flag: str, text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[0-9]{1,5}(,[0-9]{1,5})*", text):
        raise InputError(f"{flag} {text!r}: use a number, or one per scene such as 49,25")
    return tuple(int(part) for part in text.split(","))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None:
        raise InputError(f"--size {text!r}: use HEIGHTxWIDTH in pixels, such as 480x720")
    return int(found[1]), int(found[2])


def _show(made: Sequence[ExportedGraph], *, as_json: bool) -> None:
    from m2d.cli.console import write_json, write_result

    if not as_json:
        for each in made:
            write_result(each.folder)
        return
    document = [
        {
            "folder": each.folder,
            "graph": each.request.label,
            "was_there": each.artifact is None,
            "size_bytes": None if each.artifact is None else each.artifact.size_bytes,
            "relative_error": None if each.artifact is None else each.artifact.relative_error,
        }
        for each in made
    ]
    write_json({"graphs": document})
