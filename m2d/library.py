"""Films from Python: `generate`, `extend` and `reroll` make the files that the commands make.

The pipeline that keeps its model loaded and returns arrays is `m2d.pipeline.story.StoryPipeline`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2d.families.source import resolve_model
from m2d.film.make import DEFAULT_OPTIONS, FilmResult, RunOptions
from m2d.pipeline.planning import plan_for_model, plan_recipe
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.model_choice import ModelChoice, choice_of, with_given
from m2d.recipe.overrides import Overrides
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks import extend as extend_task
from m2d.tasks import generate as generate_task
from m2d.tasks import reroll as reroll_task


def generate(
    story: Recipe | str | Path,
    out: str | Path | None = None,
    *,
    model: ModelChoice | str | None = None,
    seed: int | None = None,
    num_inference_steps: int | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    reporter: Reporter | None = None,
) -> FilmResult:
    """Make the film of a story, with its run folder beside it, as `m2d generate` does.

    Args:
        story: A `Story` or the path of a recipe.
        out: The MP4; None takes the story's `output`, or its title.
        model: A model instead of the story's; with `ModelChoice` single fields, such as `revision` or `vae`.
        seed: The story's seed, instead of the recipe's.
        num_inference_steps: Denoising steps, instead of the recipe's.
        options: Whether an existing film is replaced and an unfinished run resumed.
        reporter: Receives stages, progress and warnings; None drops them.

    Raises:
        RecipeError: The story, its model or an argument is wrong; all problems together.
        M2DError: See `m2d.film.make.make_film`.
    """
    reporter = reporter or SilentReporter()
    overrides = _overrides(out, seed, num_inference_steps, downloads=reporter)
    if isinstance(story, Recipe):
        recipe = with_given(story, model)
        source = resolve_model(choice_of(recipe), downloads=overrides.downloads)
        plan = plan_for_model(recipe, source, overrides=overrides)
    else:
        plan = plan_recipe(Path(story), model=model, overrides=overrides)
    backend = get_backend(plan.backend)
    return generate_task.run(plan, backend, reporter=reporter, options=options)


def extend(
    film: str | Path,
    prompts: Sequence[str],
    out: str | Path | None = None,
    *,
    model: ModelChoice | str | None = None,
    seed: int | None = None,
    num_inference_steps: int | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    reporter: Reporter | None = None,
) -> FilmResult:
    """Append a scene to a film for every prompt, as `m2d extend` does; arguments as for `generate`.

    Args:
        film: A film of m2d, or any other video.
        prompts: One for each new scene.

    Raises:
        M2DError: See `m2d.tasks.extend.run`.
    """
    return extend_task.run(
        extend_task.Extension(film=Path(film), prompts=tuple(prompts), model=model),
        find_backend=get_backend,
        reporter=reporter or SilentReporter(),
        overrides=_overrides(out, seed, num_inference_steps, downloads=reporter or SilentReporter()),
        options=options,
    )


def reroll(
    film: str | Path,
    scenes: Sequence[int],
    out: str | Path | None = None,
    *,
    prompts: Sequence[str] = (),
    model: ModelChoice | str | None = None,
    seed: int | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    reporter: Reporter | None = None,
) -> FilmResult:
    """Regenerate scenes of a film of m2d, as `m2d reroll` does; the steps are those of the film.

    Other arguments are those of `generate`.

    Args:
        scenes: Numbers of the scenes, from 0.
        prompts: New prompts, one for each scene; none keeps the old ones.
        seed: Seed of the new scenes; None takes the one after each scene's own.

    Raises:
        M2DError: See `m2d.tasks.reroll.run`.
    """
    return reroll_task.run(
        reroll_task.Reroll(
            film=Path(film), scenes=tuple(scenes), prompts=tuple(prompts), seed=seed, model=model
        ),
        find_backend=get_backend,
        reporter=reporter or SilentReporter(),
        overrides=_overrides(out, seed=None, downloads=reporter or SilentReporter()),
        options=options,
    )


def _overrides(
    out: str | Path | None,
    seed: int | None,
    num_inference_steps: int | None = None,
    *,
    downloads: Reporter,
) -> Overrides:
    return Overrides(
        out=None if out is None else Path(out),
        seed=seed,
        num_inference_steps=num_inference_steps,
        downloads=downloads,
    )
