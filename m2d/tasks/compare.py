"""Compare: make every story with every method, evaluate the films, and write one report."""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2d.errors import InputError, Interrupted
from m2d.evaluation.comparison import (
    MethodReport,
    common,
    comparison_html,
    comparison_json,
    comparison_markdown,
)
from m2d.evaluation.evaluate import EmbedderChoice, EvalPlan, check_before_films, evaluate
from m2d.evaluation.report import check_no_report
from m2d.families.source import ModelSource, resolve_model
from m2d.files import check_writable, write_bytes, write_json
from m2d.film.job import FilmJob, PlannedRun
from m2d.film.journal_folder import has_journal
from m2d.film.make import RunOptions, make_film
from m2d.folders import make_folder
from m2d.methods.keyframes import animated_plans, draw_keyframes, keyframe_plans
from m2d.methods.methods import Keyframes, Method, chosen_methods
from m2d.pipeline.planning import plan_for_model
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Clock, Reporter
from m2d.recipe.model_choice import ModelChoice, with_choice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.stop import StopRequest
from m2d.tasks.batch import Story, plan_stories, record_if_made_by
from m2d.video.digests import canonical_json

RESULTS, TABLE, PAGE = "comparison.json", "comparison.md", "index.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparePlan:
    """What to compare.

    Attributes:
        stories: Loaders of the recipes.
        methods: Names of `m2d.methods.methods.METHODS`.
        out: Folder of the report, with a folder of films per method.
        model: Model of all methods, instead of the recipes' own.
        image_model: Image-to-video model that animates keyframes; None gives them to `model` as context.
        overrides: Steps, device and other values for all methods.
        reference: Videos that the films of every method are compared with.
        force: Replace films of other settings, and the report.
    """

    stories: Sequence[Story]
    methods: tuple[str, ...]
    out: Path
    model: ModelChoice | str | None = None
    image_model: str | None = None
    overrides: Overrides
    reference: Path | None = None
    embedder: EmbedderChoice = "auto"
    force: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareResult:
    """The report of every method by name, the seeds of the scenes by story, and the folder of the files."""

    methods: dict[str, MethodReport]
    seeds: dict[str, list[int]]
    out: Path


def compare(plan: ComparePlan, reporter: Reporter) -> CompareResult:
    """Make all films that are missing, story by story, and write the report.

    A repeated call keeps complete films and resumes an unfinished one.

    Raises:
        InputError: An unknown method, or a backend other than `eager`.
        RecipeError: Everything that is wrong with any story.
        OutputError: A film of other settings is there, or a report.
        Interrupted: A signal came; finished work is kept.
        M2DError: As `make_film` and `evaluate`.
    """
    methods = chosen_methods(plan.methods, has_image_model=plan.image_model is not None)
    check_no_report(plan.out, (RESULTS, TABLE, PAGE), force=plan.force)
    stories = plan_stories(plan.stories, model=plan.model, overrides=plan.overrides)
    _check_stories(stories)
    evaluation = EvalPlan(
        paths=(),
        reference=plan.reference,
        out=plan.out,
        embedder=plan.embedder,
        device=stories[0].device,
    )
    # Before films are made, which may take hours.
    check_before_films(evaluation, stories)
    films = _Films(plan, stories, reporter)
    made: dict[str, list[Path]] = {name: [] for name in methods}
    # Story by story: what an interrupted run leaves can be compared.
    for story in stories:
        for name, method in methods.items():
            made[name].append(films.make(name, method, story))
    reports = {}
    for name, method in methods.items():
        reports[name] = MethodReport(
            title=method.title,
            settings=_settings(method, stories, plan),
            report=evaluate(replace(evaluation, paths=tuple(made[name])), reporter),
            notes=_notes(method, stories[0].source, plan),
        )
    seeds = {story.output.stem: [each.seed or 0 for each in story.scenes] for story in stories}
    result = CompareResult(methods=reports, seeds=seeds, out=plan.out)
    check_writable(plan.out / RESULTS, force=plan.force)
    _write(result)
    return result


class _Films:
    """Makes the films of a comparison with one backend; keyframes are kept beside them."""

    def __init__(self, plan: ComparePlan, stories: Sequence[RunPlan], reporter: Reporter) -> None:
        first = stories[0]
        self._plan, self._reporter = plan, reporter
        self._backend = get_backend(first.backend)
        self._image_source = (
            resolve_model(plan.image_model, downloads=plan.overrides.downloads) if plan.image_model else None
        )

    def make(self, name: str, method: Method, story: RunPlan) -> Path:
        """Make a film, unless it is complete, and return its path."""
        output = self._plan.out / name / story.output.name
        make_folder(output.parent)
        plans = [replace(plan, output=output, warnings=()) for plan in self._planned(method, story, output)]
        resume = has_journal(output)
        if not resume and record_if_made_by(plans) is not None:
            return output
        began_s = time.monotonic()
        targets = plans[-1].targets
        job = FilmJob(
            runs=(
                PlannedRun(kind="generate", plan=plans[0]),
                *(PlannedRun(kind="extend", plan=plan) for plan in plans[1:]),
            ),
            keeps=range(targets[0], targets[-1] + 1) if plans[1:] else None,
        )
        options = RunOptions(force=self._plan.force, resume=resume)
        try:
            with StopRequest() as stop:
                make_film(job, self._backend, reporter=self._reporter, options=options)
            stop.check("ended the comparison: finished work is kept")
        except Interrupted as error:
            raise Interrupted(f"{error}; the same call continues") from error
        self._reporter.note(f"{name}: {output.name}, {time.monotonic() - began_s:.0f} s")
        return output

    def _planned(self, method: Method, story: RunPlan, output: Path) -> Sequence[RunPlan]:
        """Return the runs of a method's film; the last one makes the scenes that are shown."""
        recipe, source = method.recipe(story.recipe), self._image_source
        if method.keyframes is None:
            return [plan_for_model(recipe, story.source)]
        if source is None:
            return animated_plans(method.keyframes, recipe, story.source)
        pictures = self._pictures(method.keyframes, recipe, story, output)
        scenes = tuple(
            scene.model_copy(update={"image": str(path), "join": None})
            for scene, path in zip(recipe.scenes, pictures, strict=True)
        )
        recipe = with_choice(recipe.model_copy(update={"scenes": scenes}), source.choice)
        return [plan_for_model(recipe, source)]

    def _pictures(self, kind: Keyframes, recipe: Recipe, story: RunPlan, output: Path) -> list[Path]:
        """Draw the keyframes, unless they are there, and return their files."""
        identity = canonical_json([recipe.model_dump(mode="json"), story.source.digest, kind])
        digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
        folder = output.parent / "keyframes"
        paths = [folder / f"{output.stem}-{digest}-{number + 1}.png" for number in range(len(recipe.scenes))]
        if not all(path.is_file() for path in paths):
            make_folder(folder)
            pipeline = ScenePipeline(
                story.source, self._backend, device=story.device, clock=Clock(self._reporter)
            )
            plans = keyframe_plans(kind, recipe, story.source)
            for path, picture_HWC in zip(paths, draw_keyframes(plans, pipeline), strict=True):
                write_bytes(path, _png(picture_HWC))
        return paths


def _png(picture_HWC: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, "PNG")
    return file.getvalue()


def _check_stories(stories: Sequence[RunPlan]) -> None:
    for story in stories:
        if story.backend != "eager":
            raise InputError(f"{story.title!r}: its backend is {story.backend}; methods run on eager")
    names = [story.output.name for story in stories]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)}: would be the film of two stories; give them different titles")


def _settings(method: Method, stories: Sequence[RunPlan], plan: ComparePlan) -> dict[str, Any]:
    return {
        "model": common(story.source.name for story in stories),
        "model_digest": common(story.source.digest for story in stories),
        "image_model": plan.image_model if method.keyframes else None,
        # Without an image-to-video model, keyframes are context.
        "mask": "mask2dit" if method.keyframes and plan.image_model is None else method.mask,
        "attention": method.attention,
        "keyframes": method.keyframes,
        "num_inference_steps": common(story.sampling.num_inference_steps for story in stories),
        "guidance_scale": common(story.sampling.guidance_scale for story in stories),
    }


def _notes(method: Method, source: ModelSource, plan: ComparePlan) -> list[str]:
    notes = []
    if method.needs_training:
        notes.append(f"its own training is left out: it runs on the weights of {Path(source.name).name}")
    if method.keyframes and plan.image_model is None:
        notes.append("without an image-to-video model, each keyframe is clean context of its scene")
    return notes


def _write(result: CompareResult) -> None:
    """Write the three files, the results last: they mark a complete report."""
    page = comparison_html(result.methods, seeds=result.seeds)
    write_bytes(result.out / PAGE, page.encode("ascii"))
    table = comparison_markdown(result.methods, seeds=result.seeds)
    write_bytes(result.out / TABLE, table.encode("utf-8"))
    write_json(result.out / RESULTS, comparison_json(result.methods, seeds=result.seeds), force=True)
