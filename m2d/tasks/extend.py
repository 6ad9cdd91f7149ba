"""Extend: append scenes to a film, made by m2d or not, with scenes of it as clean context (Eq. 2).

Owns the request and its checks; `m2d.film.inherit` derives the recipe from the film.
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
from m2d.film.external import describe_copy, load_external_video
from m2d.film.inherit import inherited_recipe, model_of, plan_on, validated_recipe
from m2d.film.job import FilmJob, PlannedRun
from m2d.film.journal_folder import CorruptFileError, read_request
from m2d.film.load import load_film, read_provenance
from m2d.film.loaded_film import LoadedFilm
from m2d.film.machine import recorded_threads
from m2d.film.make import FilmResult, RunOptions
from m2d.film.outputs import output_of
from m2d.film.run import plan_and_make
from m2d.fit import FitChoice
from m2d.model.tokenizer import PromptTooLong
from m2d.progress import Reporter
from m2d.recipe.fields import NegativePrompt
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm
from m2d.recipe.schema import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """A request to extend a film.

    Attributes:
        film: The film to extend.
        prompts: One prompt for each new scene; none when an unfinished run is resumed.
        context_prompts: Prompts of an external video's last scenes.
        cuts_s: Start times of an external video's scenes, in seconds; None detects them.
        fit: Whether an external video keeps its size and rate (`film`), or takes the model's; None keeps
            them.
        only_new: Whether the output contains only the new scenes.
        model: A model instead of the film's own.
        frames: Number of frames of a new scene; None takes the recipe's.
        join: Transition to every new scene, as in a recipe; None is a cut.
    """

    film: Path
    prompts: tuple[str, ...] = ()
    context_prompts: tuple[str, ...] = ()
    cuts_s: tuple[float, ...] | None = None
    fit: FitChoice | None = None
    only_new: bool = False
    model: ModelChoice | str | None = None
    frames: int | None = None
    join: Any = None


def run(
    extension: Extension,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    on_plan: Callable[[str], None] | None = None,
) -> FilmResult:
    """Append the scenes; arguments and errors are those of `plan_and_make` and `plan_extension`.

    Without `overrides.out`, the new film goes beside the old one.
    """
    output = output_of(extension.film, overrides.out, ending="extended")
    return plan_and_make(
        output,
        lambda: plan_extension(
            extension, overrides=replace(overrides, out=output), resume=options.resume, reporter=reporter
        ),
        find_backend=find_backend,
        reporter=reporter,
        options=options,
        on_plan=on_plan,
        resumable=("extend", extension.prompts),
    )


def plan_extension(
    extension: Extension, *, overrides: Overrides, reporter: Reporter, resume: bool = False
) -> FilmJob:
    """Load the film and plan the run.

    Args:
        extension: The request.
        overrides: Values that replace the recipe's.
        reporter: Receives the stage of reading an external video.
        resume: Whether values that are not given are taken from the unfinished run.

    Raises:
        FilmError: The file is not a video that can be extended.
        ProvenanceError: The provenance is corrupt or describes another film.
        RecipeError: A prompt or an override is not valid in a recipe.
        InputError: The model does not fit the film, or options contradict each other.
    """
    recipe: Recipe | None = None
    if not extension.prompts:
        recipe, extension = _recalled(extension, overrides, resume=resume)
    provenance = read_provenance(extension.film)
    if provenance is not None and (extension.cuts_s is not None or extension.context_prompts):
        raise InputError(
            f"--cuts, --context-prompt: {extension.film} was made by m2d and knows its scenes and prompts; "
            "leave them out"
        )
    if extension.fit is not None and (provenance is not None or extension.only_new):
        reason = "only the new scenes are written" if provenance is None else "the film was made by m2d"
        raise InputError(f"{extension.fit}; {reason}, leave it out", argument="fit")
    source = model_of(provenance, model=extension.model, downloads=reporter)
    if provenance is not None:
        film = load_film(extension.film, source)
    else:
        film = _external_video(extension, source, reporter=reporter)
    if extension.only_new and film.sound is not None:
        film = replace(film, notes=(*film.notes, "its sound is left out"))
    if recipe is None:
        scenes = [
            {"prompt": prompt, "frames": extension.frames, "join": extension.join}
            for prompt in extension.prompts
        ]
        recipe = inherited_recipe(
            film, source, scenes=scenes, like=[len(film.scenes) - 1], settings=overrides.settings
        )
    existing = ExistingFilm(
        scenes=film.plans, first_scene=film.first_scene, first_given=film.first_given, fit=film.fit
    )
    plan = plan_on(recipe, source, existing, overrides=overrides)
    plan = replace(plan, num_threads=recorded_threads(film.runs))
    keeps = range(len(film.scenes), len(plan.scenes)) if extension.only_new else None
    return FilmJob(runs=(PlannedRun(kind="extend", plan=plan),), film=film, keeps=keeps)


def _external_video(extension: Extension, source: ModelSource, *, reporter: Reporter) -> LoadedFilm:
    tokenizer = load_tokenizer(source)
    prompts = []
    for number, prompt in enumerate(extension.context_prompts, start=1):
        try:
            prompts.append(TypeAdapter(NegativePrompt).validate_python(prompt))
        except ValidationError as error:
            message = error.errors(include_url=False, include_input=False)[0]["msg"]
            raise InputError(
                message.removeprefix("Value error, "), argument=f"context_prompt {number}"
            ) from error
        try:
            tokenizer.check_length(prompts[-1])
        except PromptTooLong as error:
            raise InputError(str(error), argument=f"context_prompt {number}") from error
    with reporter.stage("look through the film"):
        film = load_external_video(
            extension.film,
            source,
            cuts_s=extension.cuts_s,
            prompts=prompts,
            only_context=extension.only_new,
            fit="model" if extension.only_new else extension.fit or "film",
        )
    if film.to_transcode is None:
        return film
    rate = film.fps if film.fit is None else float(film.fit.fps)
    note = f"{describe_copy(film.to_transcode, fps=rate)}; --only-new leaves it out"
    return replace(film, notes=(*film.notes, note))


def _recalled(extension: Extension, overrides: Overrides, *, resume: bool) -> tuple[Recipe, Extension]:
    """Complete a request without prompts from that of the unfinished run of the output, if one is resumed."""
    output = overrides.out
    if output is None or not resume:
        raise InputError("missing; give one for each new scene", argument="prompt")
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
    is_external = film.get("digest") is None
    cuts_s = tuple(film["cuts_s"]) if is_external and film["cuts_s"] is not None else None
    prompts = tuple(scene["prompt"] for scene in film["scenes"]) if is_external else ()
    only_new = extension.only_new or request["only_new"]
    # Versions without a choice took the model's size and rate.
    fit = film.get("fit", "model") if is_external and not only_new else None
    return validated_recipe(request["runs"][-1]["recipe"], settings=overrides.settings), replace(
        extension,
        cuts_s=extension.cuts_s if extension.cuts_s is not None else cuts_s,
        context_prompts=extension.context_prompts or prompts,
        fit=extension.fit or fit,
        only_new=only_new,
    )
