"""Reroll: make chosen scenes of a film anew, all others being clean context and staying as they are.

Owns what is asked for and which scenes a recipe of the run holds; `production` does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2d.backend import Backend
from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.film.draft import draw_draft
from m2d.film.finish import finish_published
from m2d.film.inherit import inherited_recipe, model_of, output_of, plan_on, recipe_scene
from m2d.film.job import FilmJob, PlannedRun, announce, headline
from m2d.film.load import load_film, read_provenance
from m2d.film.loaded_film import LoadedFilm
from m2d.film.make import FilmResult, RunOptions, make_film
from m2d.film.outputs import check_outputs
from m2d.progress import Reporter
from m2d.recipe.fields import MAX_SEED
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm, RunPlan, ScenePlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Reroll:
    """What is asked for.

    Attributes:
        film: The film, made by m2d.
        scenes: Scenes to make anew, from 0.
        prompts: New prompts, one per scene in the order of `scenes`; none keeps the old ones.
        seed: Seed of the new scenes; None takes the one after each scene's own, so that something changes.
        model: A model instead of the film's own.
    """

    film: Path
    scenes: tuple[int, ...]
    prompts: tuple[str, ...] = ()
    seed: int | None = None
    model: str | None = None


def run(
    reroll: Reroll,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    preview: bool = False,
    on_plan: Callable[[str], None] | None = None,
) -> FilmResult:
    """Make the scenes anew; see `m2d.tasks.extend.run` for arguments.

    Raises:
        M2DError: As `plan_reroll` and `make_film`.
    """
    output = output_of(reroll.film, overrides.out, ending="rerolled")
    check_outputs(output, force=options.force, resume=options.resume)
    if options.resume:
        finished = finish_published(output, kind="reroll", prompts=reroll.prompts, reporter=reporter)
        if finished is not None:
            return finished
    production = plan_reroll(reroll, overrides=replace(overrides, out=output))
    assert production.film is not None
    if on_plan is not None:
        on_plan(headline(production))
    announce(production, reporter)
    for message in _stale(production.film, reroll.scenes):
        reporter.note(message)
    backend = find_backend(production.plan.backend)
    if preview:
        draw_draft(production, backend, reporter=reporter)
    return make_film(production, backend, reporter=reporter, options=options)


def plan_reroll(reroll: Reroll, *, overrides: Overrides) -> FilmJob:
    """Load the film and resolve the run, or several that follow each other.

    Raises:
        FilmError: Not a film, or not a complete one.
        ProvenanceError: Its provenance is damaged or tells of another film.
        RecipeError: Prompts or overrides that no recipe may have.
        InputError: Scenes the film does not have, or a model that does not fit it.
    """
    provenance = read_provenance(reroll.film)
    source = model_of(provenance, model=reroll.model)
    film = load_film(reroll.film, source)
    runs: list[PlannedRun] = []
    scenes = film.plans
    for chosen in _in_turn(_chosen(reroll, film), film):
        plan = _plan(reroll, film, source, chosen=chosen, scenes=scenes, overrides=overrides)
        runs.append(PlannedRun(kind="reroll", plan=plan))
        scenes = plan.scenes
    return FilmJob(runs=tuple(runs), film=film)


def _plan(
    reroll: Reroll,
    film: LoadedFilm,
    source: ModelSource,
    *,
    chosen: tuple[int, ...],
    scenes: tuple[ScenePlan, ...],
    overrides: Overrides,
) -> RunPlan:
    made = [_scene(reroll, film, number) for number in chosen]
    recipe = inherited_recipe(film, source, scenes=made, like=chosen)
    existing = ExistingFilm(scenes=scenes, chosen=chosen, first_scene=film.first_scene)
    return plan_on(recipe, source, existing, overrides=overrides)


def _chosen(reroll: Reroll, film: LoadedFilm) -> tuple[int, ...]:
    num_scenes = len(film.scenes)
    outside = [number + 1 for number in reroll.scenes if not 0 <= number < num_scenes]
    if outside or not reroll.scenes:
        told = ", ".join(map(str, outside)) or "none given"
        have = f"scenes 1 to {num_scenes}" if num_scenes > 1 else "scene 1 alone"
        raise InputError(f"--scene: {told}; {reroll.film} has {have}")
    if len(set(reroll.scenes)) != len(reroll.scenes):
        told = ", ".join(str(number + 1) for number in reroll.scenes)
        raise InputError(f"--scene: {told}; name each scene once")
    if reroll.prompts and len(reroll.prompts) != len(reroll.scenes):
        counts = f"{len(reroll.prompts)} given for {len(reroll.scenes)} of --scene"
        raise InputError(f"--prompt: {counts}; give one for each, or none to keep the old ones")
    return tuple(sorted(reroll.scenes))


def _in_turn(chosen: Sequence[int], film: LoadedFilm) -> list[tuple[int, ...]]:
    """Cut into runs where a scene continues a chosen one: that has to be finished before it."""
    groups: list[list[int]] = []
    for number in chosen:
        continues = film.scenes[number].plan.join.kind == "continue" and number - 1 in chosen
        if continues or not groups:
            groups.append([])
        groups[-1].append(number)
    return [tuple(group) for group in groups]


def _scene(reroll: Reroll, film: LoadedFilm, number: int) -> dict[str, Any]:
    """A scene as the run's recipe has it: what is not asked for is what it was."""
    loaded = film.scenes[number]
    kept: dict[str, Any] = {}
    if reroll.prompts:
        prompt = reroll.prompts[reroll.scenes.index(number)]
        setting = _recorded_setting(film, number)
    else:
        before = recipe_scene(film, number)
        if before is None:
            raise InputError(f"--prompt: missing; scene {number + 1} is footage and has none to keep")
        prompt, setting = before["prompt"], before["setting"]
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
        "setting": setting,
        "prompt": prompt,
        "seed": (seed_before + 1) % (MAX_SEED + 1) if reroll.seed is None else reroll.seed,
        "frames": loaded.plan.geometry.num_frames,
        # The join stays the film's own.
        "join": None,
    }


def _recorded_setting(film: LoadedFilm, number: int) -> str | None:
    """Return the setting of scene `number` alone; None if it has none or the film does not record it."""
    try:
        before = recipe_scene(film, number)
    except InputError:
        return None
    return None if before is None else before["setting"]


def _stale(film: LoadedFilm, chosen: Sequence[int]) -> list[str]:
    """Name scenes that continue one that is made anew: they keep the start they had."""
    return [
        f"scene {number + 1} continues scene {number} as it was; re-roll it, too, to have it follow the new"
        for number, scene in enumerate(film.scenes)
        if scene.plan.join.kind == "continue" and number - 1 in chosen and number not in chosen
    ]
