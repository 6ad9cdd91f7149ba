"""Reproduce: make a film again from its own provenance, run by run, and compare every scene.

Owns the way from records to plans; a record is data, checked like a recipe, and names no path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from m2d.backend import Backend
from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.film.draft import draw_draft
from m2d.film.inherit import model_of, output_of, plan_on, recipe_of
from m2d.film.job import FilmJob, PlannedRun
from m2d.film.load import read_provenance
from m2d.film.make import FilmResult, RunOptions, make_film
from m2d.film.outputs import check_outputs
from m2d.progress import Reporter
from m2d.recipe.overrides import Overrides
from m2d.recipe.places import Places
from m2d.recipe.plan import ExistingFilm, RunPlan
from m2d.video.provenance import Provenance, RunRecord
from m2d.video.provenance_builder import installed_versions


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduction:
    """A film made again.

    Attributes:
        result: What was made.
        differing: Scenes, from 0, whose frames are not those of the original.
    """

    result: FilmResult
    differing: tuple[int, ...]


def run(
    film: Path,
    *,
    find_backend: Callable[[str], Backend],
    reporter: Reporter,
    overrides: Overrides,
    options: RunOptions,
    model: str | None = None,
    preview: bool = False,
) -> Reproduction:
    """Make `film` again; without `overrides.out`, the copy goes beside it.

    Raises:
        FilmError: Not a film.
        ProvenanceError: Its provenance is damaged.
        InputError: It cannot be reproduced, and why.
        M2DError: As `make_film`.
    """
    output = output_of(film, overrides.out, ending="again")
    check_outputs(output, force=options.force, resume=options.resume)
    provenance = read_provenance(film)
    if provenance is None:
        raise InputError(f"{film}: was not made by m2d, so nothing tells how; give a story instead")
    production = plan_reproduction(film, provenance, model=model, overrides=replace(overrides, out=output))
    _tell_differences(provenance, production.plan.source, reporter)
    backend = find_backend(production.plan.backend)
    if preview:
        draw_draft(production, backend, reporter=reporter)
    result = make_film(production, backend, reporter=reporter, options=options)
    scenes = zip(provenance.scenes, result.provenance.scenes, strict=True)
    differing = [number for number, (old, new) in enumerate(scenes) if old.frames_sha256 != new.frames_sha256]
    return Reproduction(result=result, differing=tuple(differing))


def plan_reproduction(
    film: Path, provenance: Provenance, *, model: str | None, overrides: Overrides
) -> FilmJob:
    """Resolve all runs of a film.

    Args:
        film: The film, for messages.
        provenance: What it tells.
        model: A model instead of the film's own.
        overrides: What the command line changes.

    Raises:
        InputError: Some scenes are footage, the film holds a part of its story alone, or what it tells of
            its runs does not lead to its scenes.
        RecipeError: A recipe in it is none that the model can run.
    """
    if any(run.kind == "footage" for run in provenance.runs):
        raise InputError(f"{film}: goes on from frames of a film, which provenance does not hold")
    if provenance.first_scene:
        raise InputError(
            f"{film}: begins with scene {provenance.first_scene + 1} of its story, and nothing tells of the "
            "others' frames; reproduce the film with all of them"
        )
    source = model_of(provenance, model=model)
    runs: list[PlannedRun] = []
    for record in provenance.runs:
        before = runs[-1].plan if runs else None
        plan = _plan(film, record, source, before, overrides=overrides)
        runs.append(PlannedRun(kind=record.kind, plan=plan))
    production = FilmJob(runs=tuple(runs))
    _check_scenes(film, provenance, production)
    _check_one_place(film, production)
    return production


def _plan(
    film: Path, record: RunRecord, source: ModelSource, before: RunPlan | None, *, overrides: Overrides
) -> RunPlan:
    if (record.kind == "generate") != (before is None):
        raise _untrue(film, f"a run of `m2d {record.kind}` is out of place")
    recipe = recipe_of(record).model_copy(update={"model": source.name})
    places = Places(path=str(film))
    if before is None:
        return plan_on(recipe, source, None, overrides=overrides, places=places)
    chosen: tuple[int, ...] = ()
    if record.kind == "reroll":
        chosen = tuple(sorted({target for window in record.windows for target in window.targets}))
        if not chosen or chosen[-1] >= len(before.scenes) or len(chosen) != len(recipe.scenes):
            raise _untrue(film, f"a re-roll of {len(chosen)} scenes has a recipe of {len(recipe.scenes)}")
    existing = ExistingFilm(scenes=before.scenes, chosen=chosen)
    return plan_on(recipe, source, existing, overrides=overrides, places=places)


def _check_scenes(film: Path, provenance: Provenance, production: FilmJob) -> None:
    """Digests cannot tell whether the runs of a film are those that made its scenes."""
    told = [(scene.run, scene.num_frames) for scene in provenance.scenes]
    planned = [
        (run, scene.num_frames) for run, scene in zip(production.made_by, production.plan.scenes, strict=True)
    ]
    if told != planned:
        raise _untrue(film, f"they make {len(planned)} scenes, which are not the {len(told)} of the film")


def _check_one_place(film: Path, production: FilmJob) -> None:
    for name in ("backend", "device"):
        found = list(dict.fromkeys(getattr(plan, name) for plan in production.plans))
        if len(found) > 1:
            raise InputError(
                f"{film}: its runs were made with {name} {' and '.join(found)}; choose one with --{name}"
            )


def _untrue(film: Path, what: str) -> InputError:
    return InputError(
        f"{film}: its provenance does not tell the truth about its runs: {what}; use the original film"
    )


def _tell_differences(provenance: Provenance, source: ModelSource, reporter: Reporter) -> None:
    made_by = {run.model.digest for run in provenance.runs if run.model is not None}
    if made_by != {source.digest}:
        reporter.warn(f"the film was made with other weights than those of {source.name} here")
    versions = installed_versions()
    others = [
        f"{name} {old} (here {versions.get(name, 'none')})"
        for name, old in provenance.last_run.versions.items()
        if versions.get(name) != old
    ]
    if others:
        reporter.note(f"the film was made with {', '.join(others)}")
