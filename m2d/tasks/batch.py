"""Batch: the films of several stories, or of one story with several seeds, one after the other.

Owns the names of the films and which of them are there already; `m2d.tasks.generate` makes each. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from m2d.errors import InputError, RecipeError
from m2d.files import beside, check_writable
from m2d.film.journal_folder import has_journal
from m2d.film.outputs import check_outputs
from m2d.film.recipe_record import recipe_record
from m2d.folders import is_folder, make_folder
from m2d.pipeline.planning import plan_loaded
from m2d.recipe.loader import Loaded
from m2d.recipe.model_choice import MODEL_FIELDS, ModelChoice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.recipe.schema import Recipe
from m2d.video.open_film import FilmError
from m2d.video.provenance import Provenance, ProvenanceError, RunRecord
from m2d.video.read import probe

Story = Callable[[], Loaded[Recipe]]
"""Loads a story, so that the mistakes of all stories are reported together."""


@dataclass(frozen=True, slots=True)
class NumSeeds:
    """As many seeds for every story, from its own on."""

    count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedFilm:
    """A film of a batch.

    Attributes:
        seed: The story's seed if the batch tries several; else None.
        resumes: Whether an unfinished run of this film is resumed.
        complete: Record of the film if it is there already, made by this plan.
    """

    plan: RunPlan
    seed: int | None = None
    resumes: bool = False
    complete: Provenance | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStory:
    """The films of one story: one, or one for each seed.

    Attributes:
        sheet: The picture of all seeds; None without seeds.
    """

    films: tuple[PlannedFilm, ...]
    sheet: Path | None = None

    @property
    def title(self) -> str:
        """Title of the story."""
        return self.films[0].plan.title

    @property
    def scores(self) -> Path:
        """The file that keeps the seeds' scores, if they are judged."""
        assert self.sheet is not None
        return self.sheet.with_name(self.sheet.name.removesuffix("-seeds.png") + "-candidates.json")


def plan_batch(
    stories: Sequence[Story],
    *,
    seeds: Sequence[int] | NumSeeds = (),
    model: ModelChoice | str | None = None,
    overrides: Overrides,
    force: bool = False,
    resume: bool = False,
    check: Callable[[list[RunPlan]], None] | None = None,
) -> list[PlannedStory]:
    """Plan the films of every story, and check all outputs.

    A number of seeds counts up from each story's own. Several films are `NAME.mp4` for every story, or
    `NAME-seed-3.mp4` for every seed. `overrides.out` is then a folder, or with one story a `.mp4` name that
    seeds are added to. With `resume`, films of the batch that are complete are kept, an unfinished one is
    resumed, and missing ones are made. `check` may refuse the stories before a folder is made.

    Raises:
        RecipeError: Everything that is wrong with any story.
        InputError: Two films would have one name, or the seeds have no effect.
        OutputError: A film exists and neither `force` nor `resume` is set.
    """
    out, is_batch = overrides.out, len(stories) > 1 or bool(seeds)
    is_there = out is not None and is_folder(out)
    is_new = out is not None and bool(seeds) and not out.suffix
    folder = out if is_there or is_new or len(stories) > 1 else None
    if folder is not None and folder.suffix.lower() == ".mp4" and not is_there:
        raise InputError(f"{out}: several films need a folder", argument="out")
    planned = _loaded(stories, seeds, model=model, overrides=replace(overrides, out=None if folder else out))
    if folder is not None:
        planned = [_moved(story, folder) for story in planned]
    _check_names(planned)
    if check is not None:
        check([story.films[0].plan for story in planned])
    if folder is not None:
        make_folder(folder)
    for story in planned:
        if story.sheet is not None:
            check_writable(story.sheet, force=force or resume)
    checked = partial(_checked, force=force, resume=resume, is_batch=is_batch)
    return [replace(story, films=tuple(map(checked, story.films))) for story in planned]


def plan_stories(
    stories: Sequence[Story], *, model: ModelChoice | str | None = None, overrides: Overrides
) -> list[RunPlan]:
    """Plan stories without looking at their outputs; raises RecipeError for the mistakes of all of them."""
    return [story.films[0].plan for story in _loaded(stories, (), model=model, overrides=overrides)]


def _loaded(
    stories: Sequence[Story],
    seeds: Sequence[int] | NumSeeds,
    *,
    model: ModelChoice | str | None,
    overrides: Overrides,
) -> list[PlannedStory]:
    """Plan every story; report the problems of all of them together."""
    planned, errors = [], []
    for load in stories:
        try:
            planned.append(_plan(load(), seeds, model=model, overrides=overrides))
        except RecipeError as error:
            errors.append(error)
    if errors:
        # Problems of the command line are the same in every story.
        problems = list(dict.fromkeys(problem for error in errors for problem in error.problems))
        raise RecipeError(problems, remedy=errors[0].remedy)
    return planned


def _plan(
    loaded: Loaded[Recipe],
    seeds: Sequence[int] | NumSeeds,
    *,
    model: ModelChoice | str | None,
    overrides: Overrides,
) -> PlannedStory:
    if not seeds:
        return PlannedStory(films=(PlannedFilm(plan=plan_loaded(loaded, model=model, overrides=overrides)),))
    argument = "candidates" if isinstance(seeds, NumSeeds) else "seeds"
    if isinstance(seeds, NumSeeds):
        first = loaded.value.sampling.seed if overrides.seed is None else overrides.seed
        seeds = range(first, first + seeds.count)
    if all(scene.seed is not None for scene in loaded.value.scenes):
        raise InputError(
            f"every scene of {loaded.value.title!r} has a seed of its own, so all films would be equal",
            argument=argument,
        )
    films: list[PlannedFilm] = []
    for seed in seeds:
        plan = plan_loaded(loaded, model=model, overrides=replace(overrides, seed=seed))
        name = plan.output
        # Warnings are those of the story, not of a seed.
        plan = replace(
            plan,
            output=beside(name, f"-seed-{seed}.mp4"),
            warnings=() if films else plan.warnings,
        )
        films.append(PlannedFilm(plan=plan, seed=seed))
    return PlannedStory(films=tuple(films), sheet=beside(name, "-seeds.png"))


def _moved(story: PlannedStory, folder: Path) -> PlannedStory:
    films = [
        replace(film, plan=replace(film.plan, output=folder / film.plan.output.name)) for film in story.films
    ]
    sheet = None if story.sheet is None else folder / story.sheet.name
    return replace(story, films=tuple(films), sheet=sheet)


def _check_names(stories: Sequence[PlannedStory]) -> None:
    first: dict[Path, str] = {}
    for story in stories:
        for film in story.films:
            if film.plan.output in first:
                raise InputError(
                    f"{film.plan.output}: would be the film of two stories, {first[film.plan.output]!r} and "
                    f"{story.title!r}; give them different titles or outputs"
                )
            first[film.plan.output] = story.title


def _checked(film: PlannedFilm, *, force: bool, resume: bool, is_batch: bool) -> PlannedFilm:
    output = film.plan.output
    if resume and is_batch and not has_journal(output):
        complete = record_if_made_by([film.plan])
        if complete is not None:
            return replace(film, complete=complete)
        resume = False
    check_outputs(output, force=force, resume=resume)
    return replace(film, resumes=resume)


def record_if_made_by(plans: Sequence[RunPlan], *, after: Sequence[RunRecord] = ()) -> Provenance | None:
    """Return the record of a film if it is there and was made by these runs, with their recipes and models.

    Args:
        plans: The film's runs; all name its path.
        after: Runs of the film that they changed.
    """
    output = plans[-1].output
    try:
        found = probe(output).provenance if output.is_file() else None
    except (FilmError, ProvenanceError):
        return None
    if found is None or len(found.runs) != len(after) + len(plans):
        return None
    earlier, made = found.runs[: len(after)], found.runs[len(after) :]
    is_same = tuple(earlier) == tuple(after) and all(map(_is_made_by, made, plans))
    return found if is_same else None


def _is_made_by(run: RunRecord, plan: RunPlan) -> bool:
    is_same_model = run.model is not None and run.model.digest == plan.source.digest
    # A record names a model without its folder; the digest is compared above.
    recipes = (recipe_record(plan.recipe), run.recipe)
    ours, theirs = ({key: recipe[key] for key in recipe.keys() - {*MODEL_FIELDS}} for recipe in recipes)
    return is_same_model and ours == theirs
