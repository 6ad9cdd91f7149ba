"""Reproduce: make a film again from its own provenance, run by run, and compare every scene.

Owns planning from records; a record is untrusted data, checked like a recipe, and names no path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from m2d.backend import Backend
from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.film.inherit import model_of, plan_on, validated_recipe
from m2d.film.job import FilmJob, PlannedRun
from m2d.film.load import read_provenance
from m2d.film.lora_files import at_paths, located
from m2d.film.machine import differences, recorded_threads
from m2d.film.make import FilmResult, RunOptions
from m2d.film.outputs import output_of
from m2d.film.run import plan_and_make
from m2d.progress import Reporter
from m2d.recipe.model_choice import ModelChoice, with_choice
from m2d.recipe.overrides import Overrides
from m2d.recipe.places import Places
from m2d.recipe.plan import ExistingFilm, RunPlan
from m2d.recipe.schema import Recipe
from m2d.video.packets import changed_scenes
from m2d.video.provenance import Provenance, RunRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """A reproduced film.

    Attributes:
        result: The new film.
        differing: Scenes, from 0, whose frames differ from those of the original's record.
        is_edited: Whether the original's own pictures are not those of its record.
    """

    result: FilmResult
    differing: tuple[int, ...]
    is_edited: bool


def run(
    film: Path,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    model: ModelChoice | str | None = None,
) -> Reproduction:
    """Make `film` again; without `overrides.out`, the new film goes beside it.

    Errors are those of `plan_reproduction` and `make_film`.
    """
    output = output_of(film, overrides.out, ending="again")
    provenance = read_provenance(film)
    if provenance is None:
        raise InputError(f"{film}: was not made by m2d and has no provenance; give a film that m2d made")
    is_edited = bool(changed_scenes(film, provenance))

    def plan() -> FilmJob:
        job = plan_reproduction(film, provenance, model=model, overrides=replace(overrides, out=output))
        doubts = _differences(provenance, job.plan, num_threads=options.num_threads)
        return replace(job, doubts=tuple(doubts))

    result = plan_and_make(output, plan, find_backend=find_backend, reporter=reporter, options=options)
    scenes = zip(provenance.scenes, result.provenance.scenes, strict=True)
    differing = [number for number, (old, new) in enumerate(scenes) if old.frames_sha256 != new.frames_sha256]
    return Reproduction(result=result, differing=tuple(differing), is_edited=is_edited)


def plan_reproduction(
    film: Path, provenance: Provenance, *, model: ModelChoice | str | None, overrides: Overrides
) -> FilmJob:
    """Plan all runs of a film from its provenance; `film` is for messages.

    Raises:
        InputError: The film contains external video or only the new scenes of an extension, or its runs do
            not lead to its scenes.
        RecipeError: The model cannot run a recipe of the film.
    """
    if any(run.kind == "footage" for run in provenance.runs):
        raise InputError(f"{film}: starts from frames of another video, which provenance does not contain")
    if provenance.first_scene:
        raise InputError(
            f"{film}: begins with scene {provenance.first_scene + 1} of its story, and the frames of the "
            "scenes before are unknown; reproduce the film that contains all of them"
        )
    source = model_of(provenance, model=model, downloads=overrides.downloads)
    recipes = [validated_recipe(record.recipe, settings=overrides.settings) for record in provenance.runs]
    recorded = [choice for recipe in recipes for choice in recipe.loras]
    paths, others = located(overrides.loras or (), recorded)
    if others:
        raise InputError(f"{others[0].path}: {film} was not made with this file", argument="lora")
    overrides = replace(overrides, loras=None)
    runs: list[PlannedRun] = []
    for record in provenance.runs:
        before = runs[-1].plan if runs else None
        recipe = at_paths(with_choice(recipes[len(runs)], source.choice), paths)
        plan = _plan(film, record, recipe, source, before, overrides=overrides)
        plan = replace(plan, num_threads=recorded_threads([record]))
        runs.append(PlannedRun(kind=record.kind, plan=plan))
    job = FilmJob(runs=tuple(runs))
    _check_scenes(film, provenance, job)
    _check_one_place(film, job)
    return job


def _plan(
    film: Path,
    record: RunRecord,
    recipe: Recipe,
    source: ModelSource,
    before: RunPlan | None,
    *,
    overrides: Overrides,
) -> RunPlan:
    if (record.kind == "generate") != (before is None):
        raise _untrue(film, f"a run of kind {record.kind} is out of place")
    places = Places(path=str(film))
    if before is None:
        return plan_on(recipe, source, None, overrides=overrides, places=places)
    chosen: tuple[int, ...] = ()
    if record.kind == "reroll":
        chosen = tuple(sorted(record.made_in))
        if not chosen or chosen[-1] >= len(before.scenes) or len(chosen) != len(recipe.scenes):
            raise _untrue(film, f"a re-roll of {len(chosen)} scenes has a recipe of {len(recipe.scenes)}")
    existing = ExistingFilm(scenes=before.scenes, chosen=chosen)
    return plan_on(recipe, source, existing, overrides=overrides, places=places)


def _check_scenes(film: Path, provenance: Provenance, job: FilmJob) -> None:
    """Check that the runs of a film make its scenes; digests do not show that."""
    recorded = [(scene.run, scene.num_frames) for scene in provenance.scenes]
    planned = [(run, scene.num_frames) for run, scene in zip(job.made_by, job.plan.scenes, strict=True)]
    if recorded != planned:
        raise _untrue(film, f"they make {len(planned)} scenes, which are not the {len(recorded)} of the film")


def _check_one_place(film: Path, job: FilmJob) -> None:
    for name in ("backend", "device"):
        found = list(dict.fromkeys(getattr(plan, name) for plan in job.plans))
        if len(found) > 1:
            raise InputError(
                f"missing; the runs of {film} were made with {' and '.join(found)}; choose one", argument=name
            )


def _untrue(film: Path, what: str) -> InputError:
    return InputError(f"{film}: its provenance is wrong about its runs: {what}; use the original film")


def _differences(provenance: Provenance, plan: RunPlan, *, num_threads: int | None) -> list[str]:
    source, found = plan.source, []
    made_by = {run.model.digest for run in provenance.runs if run.model is not None}
    if made_by != {source.digest}:
        found.append(f"the film was made with other weights than those of {source.name} here")
    others = differences(provenance.runs, plan, num_threads=num_threads)
    if others:
        found.append(f"the film was made with {', '.join(others)}; frames may differ")
    return found
