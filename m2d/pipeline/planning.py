"""From a recipe, a model and overrides to the plan of a run. Imports no torch."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from m2d.devices import cpu_has_bfloat16
from m2d.errors import CheckpointError, RecipeError, Remedy
from m2d.families.loading import check_parts, load_scheduler, load_tokenizer
from m2d.families.loras import find_lora
from m2d.families.published import PublishedSource, published_source
from m2d.families.source import ModelSource, resolve_model
from m2d.model.components import COMPONENTS
from m2d.model.folder import find_weights
from m2d.pipeline.best_device import best_device
from m2d.placement.modes import Quantized
from m2d.puppet.vocabulary import WORLD
from m2d.recipe.loader import Loaded, load_with_places
from m2d.recipe.model_choice import ModelChoice, choice_of, with_choice, with_given
from m2d.recipe.overrides import COMMAND_LINE, Overrides
from m2d.recipe.places import KeyPath, Places
from m2d.recipe.plan import ExistingFilm, RunPlan, plan_story
from m2d.recipe.schema import Recipe
from m2d.video.printable import printable

_MOST_SHOWN = 40


def plan_recipe(
    path: Path, *, model: ModelChoice | str | None = None, overrides: Overrides | None = None
) -> RunPlan:
    """Load a recipe, find the given model or its own, and resolve the run.

    Raises:
        RecipeError: Everything that is wrong with the recipe, its model folder or the overrides.
    """
    loaded = load_with_places(path, Recipe, settings=overrides.settings if overrides else ())
    return plan_loaded(loaded, model=model, overrides=overrides)


def plan_loaded(
    loaded: Loaded[Recipe],
    *,
    model: ModelChoice | str | None = None,
    overrides: Overrides | None = None,
) -> RunPlan:
    """Find the given model or the recipe's own, and resolve the run; raises as `plan_recipe`.

    Args:
        model: Replaces the recipe's model, or single fields of it.
    """
    recipe = with_given(loaded.value, model)
    source: ModelSource | None
    try:
        source = resolve_model(choice_of(recipe), downloads=overrides.downloads if overrides else None)
    except CheckpointError as error:
        source = _published(recipe, overrides, error)
        if source is not None:
            return plan_for_model(recipe, source, overrides=overrides, places=loaded.places)
        given = {"model"} if isinstance(model, str) else model.model_fields_set if model else set()
        problems = [
            # Another model replaces the recipe's parts, too.
            (COMMAND_LINE if {field, "model"} & given else loaded.places).problem((field,), line)
            for field, line in error.problems
        ]
        raise RecipeError(problems, remedy=error.remedy) from error
    return plan_for_model(recipe, source, overrides=overrides, places=loaded.places)


def _published(recipe: Recipe, overrides: Overrides | None, error: CheckpointError) -> ModelSource | None:
    """Return a model of a hub that is not here by its published sizes, where that is asked for and enough."""
    if overrides is None or not overrides.published or error.remedy is not Remedy.GET_MODEL:
        return None
    quantize = overrides.quantize or recipe.backend.quantize
    # Both need the names of the transformer's tensors.
    needs_tensors = quantize != "none" or bool(recipe.loras if overrides.loras is None else overrides.loras)
    return None if needs_tensors else published_source(choice_of(recipe), absence=str(error))


def plan_recipe_for(source: ModelSource, path: Path, *, overrides: Overrides) -> RunPlan:
    """Load a recipe and resolve its run as `plan_for_model`."""
    loaded = load_with_places(path, Recipe)
    recipe = with_choice(loaded.value, source.choice)
    return plan_for_model(recipe, source, overrides=overrides, places=loaded.places)


def plan_for_model(
    recipe: Recipe,
    source: ModelSource,
    *,
    film: ExistingFilm | None = None,
    overrides: Overrides | None = None,
    places: Places | None = None,
) -> RunPlan:
    """Resolve the run of a recipe for a model, whichever the recipe names.

    Args:
        film: The film that the run starts from.
        places: Where the recipe's fields stand, so that problems can point there.

    Raises:
        RecipeError: Everything that is wrong with the recipe or the overrides.
    """
    if recipe.backend.device is None:
        backend = recipe.backend.model_copy(update={"device": best_device()})
        recipe = recipe.model_copy(update={"backend": backend})
    overrides = overrides or Overrides()
    if overrides.cpu_dtype is None and cpu_has_bfloat16():
        overrides = replace(overrides, cpu_dtype="bfloat16")
    plan = plan_story(
        recipe,
        source,
        film=film,
        overrides=overrides,
        places=places,
        count_tokens=None if isinstance(source, PublishedSource) else load_tokenizer(source).count_tokens,
        world=WORLD if source.is_puppet else None,
        find_lora=partial(find_lora, source),
    )
    places = places or Places(path="recipe")
    return replace(
        plan,
        quantized=_find_quantized(plan, places),
        has_default_dtype=(recipe.backend.dtype or overrides.dtype) is None,
        warnings=(
            *plan.warnings,
            *filter(None, [source.vae_doubt]),
            *_lettering_warnings(plan.recipe, places),
            *_idle_warnings(plan, places, seed=overrides.seed),
        ),
    )


def _find_quantized(plan: RunPlan, places: Places) -> Quantized | None:
    name = plan.recipe.backend.quantize
    if name == "none":
        return None
    from m2d.placement.quantize import find_quantized

    stored = find_weights(plan.source.path, "transformer", COMPONENTS["transformer"].stem)
    try:
        found = find_quantized(name, {key: tensor.shape for key, tensor in stored.items()})
    except CheckpointError as error:
        raise RecipeError([places.problem(("backend", "quantize"), str(error))]) from error
    if found is not None and found.kind == "gguf" and plan.loras:
        message = "a GGUF file takes no LoRAs; quantize the model's own weights, with int8 or fp8"
        raise RecipeError([places.problem(("loras",), message)])
    return found


def _lettering_warnings(recipe: Recipe, places: Places) -> list[str]:
    """Return a warning about characters that contact sheets cannot show, at the first text that has one."""
    texts: dict[KeyPath, str] = {
        ("setting",): recipe.setting or "",
        **{("cast", name): text for name, text in recipe.cast.items()},
        **{("scenes", number, "setting"): scene.setting or "" for number, scene in enumerate(recipe.scenes)},
        **{("scenes", number, "prompt"): scene.prompt for number, scene in enumerate(recipe.scenes)},
        # Last: a story of prompts has its title from the first one.
        ("title",): recipe.title,
    }
    if all(text.isascii() for text in texts.values()):
        return []
    # Reading fonts takes a moment, and few stories need it.
    from m2d.video.lettering import missing_characters

    missing = missing_characters(texts.values())
    if not missing:
        return []
    first = next(key_path for key_path, text in texts.items() if missing[0] in text)
    message = (
        f"no font here has {printable(missing, limit=_MOST_SHOWN)}, so contact sheets show boxes instead;"
        " install one that has, such as Noto"
    )
    return [str(places.problem(first, message))]


def _idle_warnings(plan: RunPlan, places: Places, *, seed: int | None) -> list[str]:
    """Return warnings about settings that change nothing in this story.

    Args:
        seed: The one of the command line.
    """
    scenes, found = plan.recipe.scenes, []
    if seed is not None and all(scene.seed is not None for scene in scenes):
        message = f"{seed} changes nothing, for every scene has a seed of its own"
        found.append(str(places.problem(("sampling", "seed"), message)))
    for number, (target, scene) in enumerate(zip(plan.targets, scenes, strict=True)):
        made = plan.scenes[target]
        if made.negative_prompt and made.guidance_scale == 1:
            holder: KeyPath = ("sampling",) if scene.negative_prompt is None else ("scenes", number)
            message = "has no effect without guidance; use a guidance_scale above 1"
            found.append(str(places.problem((*holder, "negative_prompt"), message)))
            break
    return found


def check_model(source: ModelSource, *, scheduler: str | None = None) -> None:
    """Refuse a model folder that could not be loaded or sampled later, before any part of it is loaded.

    Reads configs and headers. Imports torch, except for an embedded model, which is taken as it is.

    Args:
        scheduler: The scheduler that samples; None for the folder's own.

    Raises:
        CheckpointError: A tensor is missing, of the wrong shape or not of this model, or a config is wrong.
        SchedulerError: The scheduler would sample wrongly.
    """
    if source.is_embedded:
        return
    from m2d.diffusion.schedulers import check_scheduler

    check_parts(source)
    check_scheduler(load_scheduler(source, scheduler))
