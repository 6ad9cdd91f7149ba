"""Options that several commands share, and how a command that makes a film uses them.

Options of a single command are defined with the command.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from m2d.cli.completion import backends, film_files, one_of, recipe_files
from m2d.cli.completion import fields as fields_to_set
from m2d.cli.model_options import ModelOptions, with_options
from m2d.cli.results import pick, report_film, show_headline
from m2d.errors import InputError
from m2d.limits import MOST_THREADS
from m2d.placement.modes import MEMORY_MODES

if TYPE_CHECKING:
    from m2d.film.make import FilmResult, RunOptions
    from m2d.recipe.overrides import Overrides
    from m2d.recipe.schema import LoraChoice
    from m2d.recipe.settings import Setting

_SCALE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?")

StepsOption = Annotated[int | None, typer.Option("--steps", metavar="N", help="Number of denoising steps.")]
SpeedOption = Annotated[
    str | None,
    typer.Option(
        "--speed",
        metavar="NAME",
        help="exact; balanced or fast skip some steps.",
        autocompletion=one_of("exact", "balanced", "fast"),
    ),
]
BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend",
        metavar="NAME",
        help="Backend that runs the transformer; see `m2d doctor`.",
        autocompletion=backends,
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Device that it runs on: cpu, cuda, cuda:1.",
        autocompletion=one_of("cpu", "cuda"),
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="Precision: float32, bfloat16 or float16.",
        autocompletion=one_of("float32", "bfloat16", "float16"),
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="MODE",
        help="auto, full, model-offload, group-offload or sequential: where weights wait.",
        autocompletion=one_of("auto", *MEMORY_MODES),
    ),
]
QuantizeOption = Annotated[
    str | None,
    typer.Option(
        "--quantize",
        metavar="KIND",
        help="none, fp8, int8 or a .gguf file: how the transformer's weights are stored.",
        autocompletion=one_of("none", "fp8", "int8"),
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option("--threads", min=1, max=MOST_THREADS, metavar="N", help="Number of CPU threads.")
]
ArtifactsOption = Annotated[
    Path | None,
    typer.Option("--artifacts", metavar="DIR", help="Folder of exported graphs, instead of m2d's cache."),
]
BackendSettings = Annotated[
    list[str] | None,
    typer.Option("--backend-option", metavar="NAME=VALUE", help="Option of the backend; repeatable."),
]
LoraOption = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:SCALE]", help="LoRA of the transformer; repeatable."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="A field of the recipe, as PART.NAME=VALUE; repeatable.",
        autocompletion=fields_to_set,
    ),
]
PreviewFlag = Annotated[bool, typer.Option("--preview", help="First draw a contact sheet of a draft.")]
SavePreviewsFlag = Annotated[
    bool, typer.Option("--save-previews", help="Save pictures of the current estimate while denoising.")
]
ResumeFlag = Annotated[bool, typer.Option("--resume", help="Resume an unfinished run.")]
ForceFlag = Annotated[bool, typer.Option("--force", help="Replace an existing film.")]
ResultJsonFlag = Annotated[bool, typer.Option("--json", help="Write the result as JSON to stdout.")]
ReportJsonFlag = Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="Show only warnings and errors.")]
StoryArgument = Annotated[
    Path,
    typer.Argument(metavar="STORY", help="The story's recipe, a YAML file.", autocompletion=recipe_files),
]
StoriesArgument = Annotated[
    list[Path],
    typer.Argument(
        metavar="STORY",
        help="Recipes (YAML files), folders of them, or - for standard input.",
        autocompletion=recipe_files,
    ),
]
FilmArgument = Annotated[
    Path, typer.Argument(metavar="FILM", help="A film made by m2d.", autocompletion=film_files)
]


def parse_options(texts: Sequence[str] | None) -> dict[str, str]:
    """Parse all `--backend-option NAME=VALUE`; raise InputError without `=` or for a name given twice."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"--backend-option {text!r}: use NAME=VALUE, such as scope=whole")
        if name in found:
            raise InputError(f"--backend-option {name}: given twice, as {found[name]!r} and {value!r}")
        found[name] = value
    return found


def parse_loras(texts: Sequence[str] | None) -> tuple[LoraChoice, ...] | None:
    """Parse all `--lora FILE[:SCALE]`; raise InputError for a scale or a path that no recipe may have."""
    if not texts:
        return None
    from pydantic import ValidationError

    from m2d.recipe.schema import LoraChoice

    found = []
    for text in texts:
        path, colon, scale = text.rpartition(":")
        # A colon may be part of the name.
        has_scale = bool(colon and path) and _SCALE.fullmatch(scale) is not None and not Path(text).exists()
        if not has_scale and colon and not Path(text).exists() and Path(path).is_file():
            raise InputError(
                f"{scale!r} is no scale; use a number, such as {path}:0.8", argument=f"lora {text}"
            )
        try:
            found.append(LoraChoice(path=path, scale=float(scale)) if has_scale else LoraChoice(path=text))
        except ValidationError as error:
            message = error.errors(include_url=False, include_input=False)[0]["msg"]
            message = message.removeprefix("Value error, ")
            raise InputError(f"{text!r}: {message}", argument="lora") from error
    return tuple(found)


FieldsAndValue = tuple[Sequence[str], object]


def settings_beside(texts: Sequence[str] | None, flags: Mapping[str, FieldsAndValue]) -> tuple[Setting, ...]:
    """Parse all `--set FIELD=VALUE`; raise InputError where a flag sets the same field.

    Args:
        flags: For each flag the fields that it sets, and its value; None if it was not given.
    """
    if not texts:
        return ()
    from m2d.recipe.settings import parse_settings, same_start

    settings = parse_settings(texts)
    for setting in settings:
        for flag, (fields_set, value) in flags.items():
            paths = [tuple(field.split(".")) for field in fields_set]
            if value is not None and any(same_start(setting.key_path, path) for path in paths):
                raise InputError(f"{flag} sets this field, too; give one", argument=f"set {setting.name}")
    return settings


@dataclass(frozen=True, kw_only=True)
class FilmOptions(ModelOptions):
    """The options of commands that make a film, in the order in which `--help` lists them."""

    lora: LoraOption = None
    steps: StepsOption = None
    speed: SpeedOption = None
    backend: BackendOption = None
    device: DeviceOption = None
    dtype: DtypeOption = None
    memory: MemoryOption = None
    quantize: QuantizeOption = None
    threads: ThreadsOption = None
    artifacts: ArtifactsOption = None
    backend_option: BackendSettings = None
    settings: SetOption = None
    preview: PreviewFlag = False
    save_previews: SavePreviewsFlag = False
    resume: ResumeFlag = False
    force: ForceFlag = False
    as_json: ResultJsonFlag = False
    quiet: QuietFlag = False

    def overrides(
        self, *, out: Path | None, seed: int | None = None, own_seed: int | None = None
    ) -> Overrides:
        """Return the values that replace those of the recipe; `own_seed` is a `--seed` of another meaning."""
        from m2d.recipe.overrides import Overrides

        flags: dict[str, FieldsAndValue] = {
            "--out": (["output"], out),
            "--seed": (["sampling.seed"], seed if own_seed is None else own_seed),
            "--steps": (["sampling.num_inference_steps"], self.steps),
            "--speed": (["sampling.speed"], self.speed),
            # Another backend has other options.
            "--backend": (["backend.name", "backend.options"], self.backend),
            "--device": (["backend.device"], self.device),
            "--dtype": (["backend.dtype"], self.dtype),
            "--memory": (["backend.memory"], self.memory),
            "--quantize": (["backend.quantize"], self.quantize),
            "--backend-option": (["backend.options"], self.backend_option),
            "--lora": (["loras"], self.lora),
        }
        return Overrides(
            out=out,
            seed=seed,
            num_inference_steps=self.steps,
            backend_options=parse_options(self.backend_option),
            loras=parse_loras(self.lora),
            settings=settings_beside(self.settings, flags),
            **pick(self, "speed", "backend", "device", "dtype", "memory", "quantize", "artifacts"),
        )

    def run_options(self) -> RunOptions:
        """Return the options that do not change the story."""
        from m2d.film.make import RunOptions

        return RunOptions(
            draft=self.preview, num_threads=self.threads, **pick(self, "force", "resume", "save_previews")
        )


with_film_options = with_options(FilmOptions)


def run_task(
    load: Callable[[], Callable[..., FilmResult]],
    *,
    film: Path,
    ending: str,
    options: FilmOptions,
    overrides: Overrides,
) -> None:
    """Run a task that changes a film, and show the new film.

    Args:
        load: Imports the task, which takes seconds, and returns its `run` with the request filled in.
        film: The film that it starts from.
        ending: Of the new film's name, where no output is given: `extended`.
        options: The shared options.
        overrides: The values that replace those of the recipe.
    """
    from m2d.cli.console import loading_libraries, make_reporter
    from m2d.registry import get_backend
    from m2d.tasks.inputs import check_film

    began_s = time.monotonic()
    check_film(film, overrides.out, ending=ending, force=options.force, resume=options.resume)
    reporter = make_reporter(quiet=options.quiet)
    with loading_libraries(reporter):
        run = load()
        run_options = options.run_options()
    result = run(
        find_backend=get_backend,
        reporter=reporter,
        overrides=replace(overrides, downloads=reporter),
        options=run_options,
        on_plan=partial(show_headline, quiet=options.quiet),
    )
    report_film(result, began_s=began_s, quiet=options.quiet, as_json=options.as_json)
