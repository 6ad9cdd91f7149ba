"""Extend: append scenes to a film, made by m2d or not, with its last scenes as clean context (Eq. 2).

Owns what is asked for and what of it fits together; `inherit` finds what the film hands on, `production` does
the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m2d.backend import Backend
from m2d.errors import InputError, Remedy
from m2d.families.loading import load_tokenizer
from m2d.families.source import ModelSource
from m2d.film.draft import draw_draft
from m2d.film.external import describe_copy, load_external_video
from m2d.film.finish import finish_published
from m2d.film.inherit import inherited_recipe, model_of, output_of, plan_on, validated_recipe
from m2d.film.job import FilmJob, PlannedRun, announce, headline
from m2d.film.journal_folder import CorruptFileError, read_request
from m2d.film.load import load_film, read_provenance
from m2d.film.loaded_film import LoadedFilm
from m2d.film.make import FilmResult, RunOptions, make_film
from m2d.film.outputs import check_outputs
from m2d.model.tokenizer import PromptTooLong
from m2d.progress import Reporter
from m2d.recipe.fields import NegativePrompt
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm
from m2d.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """What is asked for.

    Attributes:
        film: The film to go on from.
        prompts: One new scene each; none when an unfinished run is resumed, which knows them.
        context_prompts: What happens in the scenes of footage; the last ones when fewer.
        cuts_s: Where scenes of footage begin, in seconds; None finds them.
        only_new: Whether the output holds the new scenes alone.
        model: A model instead of the film's own.
        frames: Length of the new scenes; None takes the recipe's.
        join: How every new scene follows the one before it, as in a recipe; None is a cut.
    """

    film: Path
    prompts: tuple[str, ...] = ()
    context_prompts: tuple[str, ...] = ()
    cuts_s: tuple[float, ...] | None = None
    only_new: bool = False
    model: str | None = None
    frames: int | None = None
    join: Any = None


def run(
    extension: Extension,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    preview: bool = False,
    on_plan: Callable[[str], None] | None = None,
) -> FilmResult:
    """Append the scenes.

    Args:
        extension: What is asked for.
        find_backend: Name to backend: which one is known when the film's recipe is.
        reporter: Is told about stages, steps, warnings and what was done to footage.
        overrides: What the command line changes; without `out`, the film goes beside the old one.
        options: How it is run.
        preview: Whether a draft's contact sheet is drawn first.
        on_plan: Is told in one line what is going to be made, as soon as that is known.

    Raises:
        M2DError: As `plan_extension` and `make_film`.
    """
    output = output_of(extension.film, overrides.out, ending="extended")
    # Before the film is decoded: what is in the way should be told at once.
    check_outputs(output, force=options.force, resume=options.resume)
    if options.resume:
        finished = finish_published(output, kind="extend", prompts=extension.prompts, reporter=reporter)
        if finished is not None:
            return finished
    production = plan_extension(
        extension, overrides=replace(overrides, out=output), resume=options.resume, reporter=reporter
    )
    if on_plan is not None:
        on_plan(headline(production))
    announce(production, reporter)
    backend = find_backend(production.plan.backend)
    if preview:
        draw_draft(production, backend, reporter=reporter)
    return make_film(production, backend, reporter=reporter, options=options)


def plan_extension(
    extension: Extension, *, overrides: Overrides, reporter: Reporter, resume: bool = False
) -> FilmJob:
    """Load the film and resolve the run.

    Args:
        extension: What is asked for.
        overrides: What the command line changes; `out` is the output.
        reporter: Is told while footage is looked through, which takes its time.
        resume: Whether what is not asked for is what the unfinished run was asked.

    Raises:
        FilmError: Not a film, or not one that can be gone on from.
        ProvenanceError: Its provenance is damaged or tells of another film.
        RecipeError: Prompts or overrides that no recipe may have.
        InputError: A model that does not fit the film, or options that do not fit together.
    """
    recipe: Recipe | None = None
    if not extension.prompts:
        recipe, extension = _recalled(extension, overrides.out if resume else None)
    provenance = read_provenance(extension.film)
    if provenance is not None and (extension.cuts_s is not None or extension.context_prompts):
        raise InputError(
            f"--cuts, --context-prompt: {extension.film} was made by m2d and knows its scenes and prompts; "
            "leave them out"
        )
    source = model_of(provenance, model=extension.model)
    if provenance is not None:
        film = load_film(extension.film, source)
    else:
        film = _footage(extension, source, reporter=reporter)
    if recipe is None:
        scenes = [
            {"prompt": prompt, "frames": extension.frames, "join": extension.join}
            for prompt in extension.prompts
        ]
        recipe = inherited_recipe(film, source, scenes=scenes, like=[len(film.scenes) - 1])
    existing = ExistingFilm(scenes=film.plans, first_scene=film.first_scene)
    plan = plan_on(recipe, source, existing, overrides=overrides)
    keeps = range(len(film.scenes), len(plan.scenes)) if extension.only_new else None
    return FilmJob(runs=(PlannedRun(kind="extend", plan=plan),), film=film, keeps=keeps)


def _footage(extension: Extension, source: ModelSource, *, reporter: Reporter) -> LoadedFilm:
    tokenizer = load_tokenizer(source)
    prompts = []
    for number, prompt in enumerate(extension.context_prompts, start=1):
        try:
            prompts.append(TypeAdapter(NegativePrompt).validate_python(prompt))
        except ValidationError as error:
            message = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise InputError(f"--context-prompt {number}: {message.removeprefix('Value error, ')}") from error
        try:
            tokenizer.check_length(prompts[-1])
        except PromptTooLong as error:
            raise InputError(f"--context-prompt {number}: {error}") from error
    with reporter.stage("look through the film"):
        film = load_external_video(
            extension.film,
            source,
            cuts_s=extension.cuts_s,
            prompts=prompts,
            only_context=extension.only_new,
        )
    if film.to_transcode is None:
        return film
    note = f"{describe_copy(film.to_transcode, fps=film.fps)}; --only-new leaves it out"
    return replace(film, notes=(*film.notes, note))


def _recalled(extension: Extension, output: Path | None) -> tuple[Recipe, Extension]:
    """What the unfinished run was asked for, and is not repeated on the command line.

    Args:
        extension: What is asked for now, without prompts.
        output: Where an unfinished run may be; None when none is resumed.
    """
    if output is None:
        raise InputError("--prompt: missing; give one for each new scene")
    try:
        request = read_request(output)
    except CorruptFileError as error:
        raise InputError(
            f"{output}: the unfinished run cannot be resumed: {error}", remedy=Remedy.DISCARD_RUN
        ) from error
    if request is None:
        raise InputError(
            f"{output}: nothing to resume: no unfinished run is there; give --prompt to start one"
        )
    if extension.frames is not None or extension.join is not None:
        raise InputError(
            "--frames, --join: belong to new scenes, and the unfinished run knows its own; leave them out"
        )
    film: Mapping[str, Any] = request["film"] or {"cuts_s": None, "scenes": []}
    is_footage = film.get("digest") is None
    cuts_s = tuple(film["cuts_s"]) if is_footage and film["cuts_s"] is not None else None
    told = tuple(scene["prompt"] for scene in film["scenes"]) if is_footage else ()
    return validated_recipe(request["runs"][-1]["recipe"]), replace(
        extension,
        cuts_s=extension.cuts_s if extension.cuts_s is not None else cuts_s,
        context_prompts=extension.context_prompts or told,
        only_new=extension.only_new or request["only_new"],
    )
