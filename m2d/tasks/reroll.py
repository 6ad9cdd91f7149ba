"""Reroll: regenerate chosen scenes of a film; the other scenes are clean context and stay unchanged.

Owns the request, its checks, and which runs regenerate which scenes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2d.backend import Backend
from m2d.errors import InputError, RecipeError
from m2d.film.inherit import inherited_recipe, model_of, plan_on, recipe_scene
from m2d.film.job import FilmJob, PlannedRun
from m2d.film.load import load_film, read_provenance
from m2d.film.loaded_film import LoadedFilm
from m2d.film.machine import recorded_threads
from m2d.film.make import FilmResult, RunOptions
from m2d.film.outputs import output_of
from m2d.film.run import plan_and_make
from m2d.progress import Reporter
from m2d.recipe.fields import MAX_SEED
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.places import KeyPath, setting_problem
from m2d.recipe.plan import ExistingFilm
from m2d.recipe.settings import Setting
from m2d.video.printable import counted

# Fields of a scene and the field that sets them for all scenes.
_FIELD_FOR_ALL: dict[str, KeyPath] = {
    "setting": ("setting",),
    "seed": ("sampling", "seed"),
    "guidance_scale": ("sampling", "guidance_scale"),
    "negative_prompt": ("sampling", "negative_prompt"),
    "match_colour": ("video", "match_colour"),
    **dict.fromkeys(("image", "image_sha256"), ("image",)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Reroll:
    """A request to regenerate scenes.

    Attributes:
        film: The film, made by m2d.
        scenes: The scenes, from 0.
        prompts: New prompts, one per scene in the order of `scenes`; none keeps the old ones.
        seed: Seed of the new scenes; None takes each scene's own seed plus 1.
        model: A model instead of the film's own.
    """

    film: Path
    scenes: tuple[int, ...]
    prompts: tuple[str, ...] = ()
    seed: int | None = None
    model: ModelChoice | str | None = None


def run(
    reroll: Reroll,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    on_plan: Callable[[str], None] | None = None,
) -> FilmResult:
    """Regenerate the scenes; for arguments see `m2d.tasks.extend.run`."""
    output = output_of(reroll.film, overrides.out, ending="rerolled")
    return plan_and_make(
        output,
        lambda: plan_reroll(reroll, overrides=replace(overrides, out=output)),
        find_backend=find_backend,
        reporter=reporter,
        options=options,
        on_plan=on_plan,
        resumable=("reroll", reroll.prompts),
    )


def plan_reroll(reroll: Reroll, *, overrides: Overrides) -> FilmJob:
    """Load the film and plan one run, or several in sequence.

    Raises:
        RecipeError: A prompt or an override is not valid in a recipe.
        InputError: The film does not have these scenes, or the model does not fit it; see `load_film`.
    """
    provenance = read_provenance(reroll.film)
    source = model_of(provenance, model=reroll.model, downloads=overrides.downloads)
    film = load_film(reroll.film, source)
    _check_settings(overrides.settings)
    replaced = {setting.key_path for setting in overrides.settings}
    runs: list[PlannedRun] = []
    scenes = film.plans
    for chosen in _in_sequence(_chosen(reroll, film), film):
        made = [_without(_scene(reroll, film, number), replaced) for number in chosen]
        recipe = inherited_recipe(
            film, source, scenes=made, like=chosen, settings=overrides.settings, keeps_loras=True
        )
        existing = ExistingFilm(
            scenes=scenes,
            chosen=chosen,
            first_scene=film.first_scene,
            first_given=film.first_given,
            fit=film.fit,
        )
        plan = plan_on(recipe, source, existing, overrides=overrides)
        plan = replace(plan, num_threads=recorded_threads(film.runs))
        runs.append(PlannedRun(kind="reroll", plan=plan))
        scenes = plan.scenes
    return FilmJob(runs=tuple(runs), film=film, hints=_unchanged_continuations(film, reroll.scenes))


def _chosen(reroll: Reroll, film: LoadedFilm) -> tuple[int, ...]:
    num_scenes = len(film.scenes)
    outside = [number + 1 for number in reroll.scenes if not 0 <= number < num_scenes]
    if outside or not reroll.scenes:
        given = ", ".join(map(str, outside)) or "none given"
        have = f"scenes 1 to {num_scenes}" if num_scenes > 1 else "scene 1 alone"
        raise InputError(f"{given}; {reroll.film} has {have}", argument="scene")
    if len(set(reroll.scenes)) != len(reroll.scenes):
        given = ", ".join(str(number + 1) for number in reroll.scenes)
        raise InputError(f"{given}; name each scene once", argument="scene")
    if reroll.prompts and len(reroll.prompts) != len(reroll.scenes):
        raise InputError(
            f"{len(reroll.prompts)} prompts for {counted(len(reroll.scenes), 'scene')}; give one for each,"
            " or none to keep the old ones",
            argument="prompt",
        )
    return tuple(sorted(reroll.scenes))


def _in_sequence(chosen: Sequence[int], film: LoadedFilm) -> list[tuple[int, ...]]:
    """Group the scenes into runs: a scene that continues a chosen one needs the finished one."""
    groups: list[list[int]] = []
    for number in chosen:
        continues = film.scenes[number].plan.join.kind == "continue" and number - 1 in chosen
        if continues or not groups:
            groups.append([])
        groups[-1].append(number)
    return [tuple(group) for group in groups]


def _scene(reroll: Reroll, film: LoadedFilm, number: int) -> dict[str, Any]:
    """Return a scene of the run's recipe; values that are not requested stay as they were."""
    loaded = film.scenes[number]
    kept: dict[str, Any] = {}
    try:
        before = recipe_scene(film, number)
    except InputError:
        # A new prompt needs nothing of the recipe; a scene whose setting is not recorded has none.
        if not reroll.prompts:
            raise
        before = None
    if not reroll.prompts and before is None:
        raise InputError(
            f"missing; scene {number + 1} is external video and has no prompt to keep", argument="prompt"
        )
    recorded = before or {"prompt": "", "setting": None}
    prompt = reroll.prompts[reroll.scenes.index(number)] if reroll.prompts else recorded["prompt"]
    record = loaded.record
    if record is not None and record.seed is not None:
        kept = {
            "negative_prompt": record.negative_prompt,
            "guidance_scale": record.guidance_scale,
            "match_colour": record.colour_map is not None,
        }
    seed_before = record.seed if record is not None and record.seed is not None else -1
    return {
        **kept,
        "image": recorded.get("image"),
        "image_sha256": recorded.get("image_sha256"),
        "setting": recorded["setting"],
        "prompt": prompt,
        "seed": (seed_before + 1) % (MAX_SEED + 1) if reroll.seed is None else reroll.seed,
        "frames": loaded.plan.geometry.num_frames,
        # The transition of the film stays; a scene that continues another needs no picture.
        "join": "continue" if loaded.plan.join.kind == "continue" else None,
    }


def _check_settings(settings: Sequence[Setting]) -> None:
    """Reject settings that a re-rolled scene does not take from its recipe."""
    how = {"scenes": "a re-rolled scene takes its prompt and seed from --prompt and --seed"}
    for setting in settings:
        message = how.get(str(setting.key_path[0]))
        if setting.key_path == ("video", "num_frames"):
            message = "a re-rolled scene keeps its length"
        if message:
            raise RecipeError([setting_problem(setting.key_path, message)])


def _without(scene: Mapping[str, Any], replaced: Collection[KeyPath]) -> dict[str, Any]:
    """Return the scene without its own values of fields that are set for all scenes."""
    own = {name for name, key_path in _FIELD_FOR_ALL.items() if key_path in replaced}
    return {name: value for name, value in scene.items() if name not in own}


def _unchanged_continuations(film: LoadedFilm, chosen: Sequence[int]) -> tuple[str, ...]:
    """Name the scenes that continue the old version of a regenerated scene."""
    return tuple(
        f"scene {number + 1} continues scene {number} as it was; re-roll it, too, to have it follow the new"
        for number, scene in enumerate(film.scenes)
        if scene.plan.join.kind == "continue" and number - 1 in chosen and number not in chosen
    )
