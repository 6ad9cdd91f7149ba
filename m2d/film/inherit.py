"""Model, recipe and sizes that a run takes from the film it starts from.

Provenance is untrusted data: it is validated like any recipe and never used as a path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from m2d.errors import InputError, Problem, RecipeError
from m2d.families.opening import BUILTIN_MODELS
from m2d.families.source import ModelSource, resolve_model
from m2d.film.loaded_film import LoadedFilm
from m2d.film.lora_files import with_lora_files
from m2d.film.recipe_record import as_recipe, without_places
from m2d.pipeline.planning import plan_for_model
from m2d.progress import Reporter
from m2d.recipe.cast import described_actors, unknown_actors
from m2d.recipe.loader import fit_document
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import COMMAND_LINE, Overrides
from m2d.recipe.places import KeyPath, Places, setting_problem
from m2d.recipe.plan import ExistingFilm, RunPlan
from m2d.recipe.schema import Recipe
from m2d.recipe.settings import Setting, apply_settings, same_start
from m2d.video.printable import printable
from m2d.video.provenance import Provenance, RunRecord

_OF_THE_FILM: tuple[KeyPath, ...] = (
    ("output",),
    *(("video", name) for name in ("height", "width", "fps", "upscale")),
)
_SCENE_FIELD = re.compile(r"scenes\[(?P<index>\d+)\]\.(?P<name>prompt|frames|join|seed)(\.crossfade)?")


def model_of(
    provenance: Provenance | None, *, model: ModelChoice | str | None, downloads: Reporter | None = None
) -> ModelSource:
    """Resolve the given model, or the film's own if that is built in; an external video has no provenance.

    Raises:
        InputError: No model is given, and the film's own is not built in.
        CheckpointError: The model folder is missing or incomplete.
        HubUnavailable: The hub of the given model does not answer.
    """
    given = ModelChoice(model=model) if isinstance(model, str) else model or ModelChoice()
    if "model" in given.model_fields_set:
        return resolve_model(given, downloads=downloads)
    records = [run.model for run in provenance.runs if run.model is not None] if provenance else []
    if records and records[-1].name in BUILTIN_MODELS:
        return resolve_model(given.model_copy(update={"model": records[-1].name}), downloads=downloads)
    if records:
        name = printable(records[-1].name, limit=200)
        raise InputError(f"missing; the film was made by the model {name}, give its folder", argument="model")
    return resolve_model(given, downloads=downloads)


def inherited_recipe(
    film: LoadedFilm,
    source: ModelSource,
    *,
    scenes: Sequence[Mapping[str, Any]],
    like: Sequence[int],
    settings: Sequence[Setting] = (),
    keeps_loras: bool = False,
) -> Recipe:
    """Return the recipe of a run that starts from a film: cast, setting, sampling and sizes are the film's.

    A prompt adds a new actor to the cast by describing it: `Actor3 (tall green body) waves.`

    Args:
        scenes: The target scenes, as in a recipe; values that are None are left out.
        like: Scenes of the film; the newest recipe that made one of them is inherited.
        settings: Fields that replace those of the film's recipe.
        keeps_loras: Whether each scene has the LoRAs of the scene of `like` in its place; LoRAs of all
            scenes are always inherited.

    Raises:
        RecipeError: A scene or a setting is not valid in a recipe, or a setting belongs to the whole film.
        InputError: The film's recipe is not valid, or a prompt names an actor that is not described.
    """
    before = _newest_run(film, like)
    document: dict[str, Any]
    if before is not None:
        document = validated_recipe(before.recipe).model_dump(exclude={"output", "scenes"})
    else:
        document = {"title": film.title}
    document["loras"] = _loras(document.get("loras", ()), film, like if keeps_loras else ())
    _check_length(document.get("video", {}), film, scenes)
    shape = film.scenes[0].plan.geometry
    document |= source.choice.model_dump()
    document["scenes"] = tuple(
        {key: value for key, value in scene.items() if value is not None} for scene in scenes
    )
    _check_settings(settings)
    document, places = apply_settings(document, settings, COMMAND_LINE)
    document["cast"] = _cast(film, document.get("cast", {}), _prompts(document["scenes"]))
    document["video"] = {
        **document.get("video", {}),
        "height": shape.height,
        "width": shape.width,
        "fps": film.fps,
        "upscale": {"factor": film.upscale, "filter": film.upscale_filter},
    }
    try:
        return fit_document(document, Recipe, places=places).value
    except RecipeError as error:
        raise RecipeError(_without_numbers(error.problems, num_scenes=len(scenes))) from error


def plan_on(
    recipe: Recipe,
    source: ModelSource,
    film: ExistingFilm | None,
    *,
    overrides: Overrides,
    places: Places = COMMAND_LINE,
) -> RunPlan:
    """Plan a run that starts from a film; keep only the warnings about the target scenes.

    Raises:
        RecipeError: A prompt, a size or an override is not valid for the model or in a recipe.
    """
    recipe, film, overrides = with_lora_files(_with_own_dtype(recipe, overrides), film, overrides)
    replaced = tuple(setting.key_path for setting in overrides.settings)
    places = replace(places, replaced=(*places.replaced, *replaced))
    try:
        plan = plan_for_model(recipe, source, film=film, overrides=overrides, places=places)
    except RecipeError as error:
        problems = _without_numbers(error.problems, num_scenes=len(recipe.scenes))
        raise RecipeError(problems, remedy=error.remedy) from error
    return replace(plan, warnings=_own_warnings(plan, keeps_lengths=film is not None and bool(film.chosen)))


def _with_own_dtype(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Another backend than the film's computes in a data type of its own, unless one is given."""
    given = {setting.key_path for setting in overrides.settings}
    is_other = overrides.backend not in (None, recipe.backend.name) or ("backend", "name") in given
    if not is_other or overrides.dtype is not None or ("backend", "dtype") in given:
        return recipe
    return recipe.model_copy(update={"backend": recipe.backend.model_copy(update={"dtype": None})})


def recipe_scene(film: LoadedFilm, number: int) -> dict[str, Any] | None:
    """Return scene `number` of the recipe that made it; None for external video.

    Raises:
        InputError: The film's provenance does not contain that recipe.
    """
    run = film.runs[film.scenes[number].generating_run]
    if run.kind == "footage":
        return None
    made = sorted(run.made_in)
    recipe = validated_recipe(run.recipe)
    wanted = film.first_scene + number
    if wanted not in made or len(made) != len(recipe.scenes):
        raise InputError(
            f"missing; the film does not record how scene {number + 1} was made", argument="prompt"
        )
    return recipe.scenes[made.index(wanted)].model_dump()


def validated_recipe(document: Mapping[str, Any], *, settings: Sequence[Setting] = ()) -> Recipe:
    """Validate a recipe that was stored as JSON, and replace fields of it.

    Raises:
        InputError: The recipe is not valid.
        RecipeError: A setting is not valid in a recipe, or belongs to the whole film.
    """
    try:
        recipe = without_places(Recipe.model_validate_json(json.dumps(as_recipe(document))))
        if not settings:
            return recipe
        _check_settings(settings)
        return fit_document(recipe.model_dump(), Recipe, places=COMMAND_LINE, settings=settings).value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = printable(".".join(map(str, first["loc"])), limit=200)
        raise InputError(
            f"the recipe stored in the film is not valid: {place}: {printable(first['msg'])}"
        ) from error


def _check_settings(settings: Sequence[Setting]) -> None:
    problems = [
        setting_problem(setting.key_path, "belongs to the whole film, and new scenes cannot change it")
        for setting in settings
        if any(same_start(setting.key_path, key_path) for key_path in _OF_THE_FILM)
    ]
    if problems:
        raise RecipeError(problems)


def _prompts(scenes: object) -> list[str]:
    """Return the prompts of raw scenes; those of other types are reported when the recipe is checked."""
    found = (
        [scene.get("prompt") for scene in scenes if isinstance(scene, Mapping)]
        if isinstance(scenes, tuple)
        else []
    )
    return [prompt for prompt in found if isinstance(prompt, str)]


def _check_length(video: Mapping[str, Any], film: LoadedFilm, scenes: Sequence[Mapping[str, Any]]) -> None:
    """Check that no new scene inherits a length that no scene of the film comes near: a record may lie."""
    inherited, longest = video.get("num_frames"), max(plan.geometry.num_frames for plan in film.plans)
    if inherited is not None and inherited > longest and not all(scene.get("frames") for scene in scenes):
        raise InputError(
            f"missing; the recipe in the film asks for {inherited} frames a scene, and its longest scene has"
            f" {longest}",
            argument="frames",
        )


def _loras(
    inherited: Sequence[Mapping[str, Any]], film: LoadedFilm, like: Sequence[int]
) -> tuple[Mapping[str, Any], ...]:
    """Return the film's LoRAs of all scenes, and the LoRAs of their own of the scenes `like`."""
    own = [
        choice.model_copy(update={"scenes": (number,)}).model_dump()
        for number, scene in enumerate(like, start=1)
        for choice in film.scenes[scene].plan.loras
    ]
    return (*(choice for choice in inherited if choice["scenes"] is None), *own)


def _newest_run(film: LoadedFilm, like: Sequence[int]) -> RunRecord | None:
    """Return the newest run with a recipe that made one of the scenes, or else the newest of all."""
    indices = sorted({film.scenes[number].generating_run for number in like})
    runs = [*film.runs, *(film.runs[index] for index in indices)]
    return next((run for run in reversed(runs) if run.kind != "footage"), None)


def _cast(film: LoadedFilm, cast: Mapping[str, str], prompts: Sequence[str]) -> dict[str, str]:
    """Return the film's cast with every actor that a prompt describes."""
    texts = [*prompts, *(scene.plan.prompt for scene in film.scenes)]
    described = described_actors(texts)
    full = {**cast, **{name: text for name, text in described.items() if name not in cast}}
    for number, prompt in enumerate(prompts, start=1):
        unknown = unknown_actors(prompt, full)
        if unknown:
            argument = f"prompt {number}" if len(prompts) > 1 else "prompt"
            known = ", ".join(full) or "empty"
            raise InputError(
                f"{unknown[0]} is not in the film's cast ({known}); describe it in the prompt: "
                f"{unknown[0]} (tall green body)",
                argument=argument,
            )
    return full


def _own_warnings(plan: RunPlan, *, keeps_lengths: bool) -> tuple[str, ...]:
    """Keep the warnings about target scenes; those about the film's cast and sizes were reported before."""
    own = []
    for warning in plan.warnings:
        field, _, message = warning.removeprefix(f"{COMMAND_LINE.path}: ").partition(": ")
        match = _SCENE_FIELD.fullmatch(field)
        if field.startswith("loras["):
            own.append(warning)
        if match is not None and not (keeps_lengths and match["name"] == "frames"):
            argument = _argument(match, num_scenes=len(plan.recipe.scenes))
            own.append(f"{COMMAND_LINE.path}: {argument}: {message}")
    return tuple(own)


def _without_numbers(problems: Sequence[Problem], *, num_scenes: int) -> list[Problem]:
    """Name the arguments at fault: a scene has a number only where several prompts were given."""
    return [
        replace(problem, field=_argument(match, num_scenes=num_scenes))
        if problem.path == COMMAND_LINE.path and (match := _SCENE_FIELD.fullmatch(problem.field))
        else problem
        for problem in problems
    ]


def _argument(match: re.Match[str], *, num_scenes: int) -> str:
    # All arguments but the prompt are given once for all scenes.
    is_numbered = match["name"] == "prompt" and num_scenes > 1
    return match.group() if is_numbered else match["name"]
