"""From a recipe to a run: every parameter resolved against the model's geometry, or all problems at once.

Owns defaults, overrides, and what only the model can judge: sizes, prompt lengths, the number of scenes.
Imports no torch; what needs a tokenizer or a word list gets it passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from m2d.errors import Problem, RecipeError
from m2d.geometry import GeometryError, ModelGeometry, SceneGeometry
from m2d.layout import SceneLayout
from m2d.recipe.advice import story_warnings
from m2d.recipe.cast import scene_prompt
from m2d.recipe.explain import explain
from m2d.recipe.fields import default_output
from m2d.recipe.schema import DtypeName, Recipe, Sampling, Scene
from m2d.recipe.text_tree import Places

if TYPE_CHECKING:
    from m2d.model.checkpoint import ModelSource

TokenCounter = Callable[[str], int]
"""Counts a prompt's tokens, the end-of-text token included."""

_MAX_WRITTEN_SIDE = 8192
# Measured on H.264 films of the puppet theatre, which range from a third to three times of this.
_BYTES_PER_WRITTEN_PIXEL = 0.05
_CONTAINER_BYTES = 8_000

_FLAGS = {
    "sampling.seed": "--seed",
    "sampling.num_inference_steps": "--steps",
    "backend.name": "--backend",
    "backend.device": "--device",
    "backend.dtype": "--dtype",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """What the command line says instead of the recipe; None leaves the recipe's.

    Attributes:
        out: Any path, unlike the recipe's `output`.
        seed: The story's seed; scenes with a seed of their own keep it.
    """

    out: Path | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenePlan:
    """One scene, resolved.

    Attributes:
        prompt: What the model reads: setting first, cast expanded.
        negative_prompt: What it is steered away from; may be empty.
        guidance_scale: 1 is no guidance.
        seed: Seed of this scene's noise.
        num_frames: Pixel frames.
        num_prompt_tokens: Tokens of `prompt`; None when no counter was at hand.
    """

    prompt: str
    negative_prompt: str
    guidance_scale: float
    seed: int
    num_frames: int
    num_prompt_tokens: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """Everything a run needs to know, and nothing left to decide.

    Attributes:
        recipe: The recipe with overrides applied: what provenance keeps, and what gives this plan again.
        layout: Token spans of all scenes and who may attend to whom.
        scene_geometry: Sizes of every scene (all scenes are alike).
        output: The film; relative paths belong to the working directory.
        predicted_size_bytes: A rough guess.
        warnings: What the user probably wants to change, with its place in the recipe.
    """

    title: str
    recipe: Recipe
    source: ModelSource
    scenes: tuple[ScenePlan, ...]
    layout: SceneLayout
    scene_geometry: SceneGeometry
    sampling: Sampling
    fps: int
    upscale: int
    backend: str
    device: str
    dtype: DtypeName
    output: Path
    predicted_size_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """Pixel frames of the whole film."""
        return sum(scene.num_frames for scene in self.scenes)

    @property
    def duration_s(self) -> float:
        """Length of the film in seconds."""
        return self.num_frames / self.fps


def plan_story(
    recipe: Recipe,
    source: ModelSource,
    *,
    overrides: Overrides | None = None,
    places: Places | None = None,
    count_tokens: TokenCounter | None = None,
    known_words: frozenset[str] | None = None,
) -> RunPlan:
    """Resolve a recipe for a model.

    Args:
        recipe: The story.
        source: The model; only its geometry and name are read.
        overrides: What the command line changes.
        places: Where the recipe's fields stand, so that problems can point there.
        count_tokens: The model's tokenizer; without it prompt lengths are not checked.
        known_words: All words a model with a closed vocabulary can read; None for one that reads anything.

    Raises:
        RecipeError: Sizes the model cannot make, too many scenes, prompts that are too long, or overrides
            that no recipe may have; all together.
    """
    overrides = overrides or Overrides()
    places = places or Places(path="recipe")
    recipe = apply_overrides(recipe, overrides)
    geometry = source.geometry
    prompts = tuple(
        scene_prompt(scene.prompt, cast=recipe.cast, setting=recipe.setting) for scene in recipe.scenes
    )
    problems = [
        *_size_problems(recipe, geometry, places=places),
        *_scene_count_problems(recipe, geometry, places=places),
        *_length_problems(recipe, prompts, geometry, places=places, count_tokens=count_tokens),
    ]
    if problems:
        raise RecipeError(problems)
    scene_geometry = _scene_geometry(recipe, geometry)
    return RunPlan(
        title=recipe.title,
        recipe=recipe,
        source=source,
        scenes=tuple(
            _scene_plan(
                scene, prompt, recipe, num_frames=scene_geometry.num_frames, count_tokens=count_tokens
            )
            for scene, prompt in zip(recipe.scenes, prompts, strict=True)
        ),
        layout=_layout(recipe, geometry, scene_geometry),
        scene_geometry=scene_geometry,
        sampling=recipe.sampling,
        fps=recipe.video.fps or geometry.default_fps,
        upscale=recipe.video.upscale,
        backend=recipe.backend.name,
        device=recipe.backend.device,
        dtype=recipe.backend.dtype,
        output=overrides.out or Path(recipe.output or default_output(recipe.title)),
        predicted_size_bytes=_predicted_size_bytes(recipe, scene_geometry),
        warnings=story_warnings(recipe, geometry, places=places, known_words=known_words),
    )


def apply_overrides(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Return the recipe as the command line wants it; `out` is no part of a recipe.

    Raises:
        RecipeError: A value that no recipe may have; the message names the flag.
    """
    sampling = {"seed": overrides.seed, "num_inference_steps": overrides.num_inference_steps}
    backend = {"name": overrides.backend, "device": overrides.device, "dtype": overrides.dtype}
    document = recipe.model_dump()
    document["sampling"] |= {key: value for key, value in sampling.items() if value is not None}
    document["backend"] |= {key: value for key, value in backend.items() if value is not None}
    problems = []
    try:
        changed = Recipe.model_validate(document)
    except ValidationError as error:
        found = explain(error, model=Recipe, places=Places(path="command line"))
        problems += [_as_flag(problem) for problem in found]
    if overrides.out is not None and overrides.out.suffix.lower() != ".mp4":
        problems.append(
            _flag_problem("--out", f"{str(overrides.out)!r} does not end in .mp4; films are MP4 files")
        )
    if problems:
        raise RecipeError(problems)
    return changed


def _as_flag(problem: Problem) -> Problem:
    return _flag_problem(_FLAGS.get(problem.field, problem.field), problem.message)


def _flag_problem(flag: str, message: str) -> Problem:
    return Problem(path="command line", line=0, column=0, field=flag, message=message)


def _size_problems(recipe: Recipe, geometry: ModelGeometry, *, places: Places) -> list[Problem]:
    """Try each size alone with the model's own others, so that each is blamed for its own fault."""
    problems = []
    defaults = {
        "num_frames": geometry.default_num_frames,
        "height": geometry.default_height,
        "width": geometry.default_width,
    }
    for name in defaults:
        wanted = getattr(recipe.video, name)
        if wanted is None:
            continue
        try:
            geometry.scene(**{**defaults, name: wanted})
        except GeometryError as error:
            problems.append(places.problem(("video", name), str(error).removeprefix(f"{name}: ")))
            continue
        written = wanted * recipe.video.upscale
        if name != "num_frames" and written > _MAX_WRITTEN_SIDE:
            enlarged = f"{wanted} times upscale {recipe.video.upscale} is {written} pixels"
            message = f"{enlarged}; at most {_MAX_WRITTEN_SIDE} are allowed, use a smaller upscale"
            problems.append(places.problem(("video", name), message))
    return problems


def _scene_count_problems(recipe: Recipe, geometry: ModelGeometry, *, places: Places) -> list[Problem]:
    allowed = geometry.num_scenes
    if len(recipe.scenes) <= allowed:
        return []
    message = f"{len(recipe.scenes)} scenes, but the model was trained for {allowed}; use {allowed} or fewer"
    return [places.problem(("scenes",), message)]


def _length_problems(
    recipe: Recipe,
    prompts: tuple[str, ...],
    geometry: ModelGeometry,
    *,
    places: Places,
    count_tokens: TokenCounter | None,
) -> list[Problem]:
    if count_tokens is None:
        return []
    texts: list[tuple[tuple[str | int, ...], str]] = [
        (("scenes", index, "prompt"), prompt) for index, prompt in enumerate(prompts)
    ]
    texts.append((("sampling", "negative_prompt"), recipe.sampling.negative_prompt))
    for index, scene in enumerate(recipe.scenes):
        texts.append((("scenes", index, "negative_prompt"), scene.negative_prompt or ""))
    problems = []
    for key_path, text in texts:
        num_tokens = count_tokens(text)
        over = num_tokens - geometry.max_text_tokens
        if over > 0:
            message = (
                f"{num_tokens} tokens{' with setting and cast' if key_path[-1] == 'prompt' else ''}, but the "
                f"model reads at most {geometry.max_text_tokens}; shorten it by {over}"
            )
            problems.append(places.problem(key_path, message))
    return problems


def _scene_plan(
    scene: Scene, prompt: str, recipe: Recipe, *, num_frames: int, count_tokens: TokenCounter | None
) -> ScenePlan:
    story = recipe.sampling
    return ScenePlan(
        prompt=prompt,
        negative_prompt=story.negative_prompt if scene.negative_prompt is None else scene.negative_prompt,
        guidance_scale=story.guidance_scale if scene.guidance_scale is None else scene.guidance_scale,
        seed=story.seed if scene.seed is None else scene.seed,
        num_frames=num_frames,
        num_prompt_tokens=count_tokens(prompt) if count_tokens else None,
    )


def _scene_geometry(recipe: Recipe, geometry: ModelGeometry) -> SceneGeometry:
    return geometry.scene(
        num_frames=recipe.video.num_frames or geometry.default_num_frames,
        height=recipe.video.height or geometry.default_height,
        width=recipe.video.width or geometry.default_width,
    )


def _layout(recipe: Recipe, geometry: ModelGeometry, scene: SceneGeometry) -> SceneLayout:
    num_scenes = len(recipe.scenes)
    return SceneLayout.build(
        recipe.mask,
        text_tokens=(geometry.max_text_tokens,) * num_scenes,
        latent_frames=(scene.num_latent_frames,) * num_scenes,
        tokens_per_frame=scene.tokens_per_frame,
    )


def _predicted_size_bytes(recipe: Recipe, scene: SceneGeometry) -> int:
    num_pixels = len(recipe.scenes) * scene.num_frames * scene.height * scene.width * recipe.video.upscale**2
    return _CONTAINER_BYTES + round(num_pixels * _BYTES_PER_WRITTEN_PIXEL)
