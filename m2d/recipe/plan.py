"""Plans a run: resolves every parameter of a recipe for a model, or reports all problems at once.

Owns defaults and the order in which scenes are generated; values that replace the recipe's are in
`overrides`, checks that depend on the model in `checks`. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from m2d.enlarging import UpscaleFilter
from m2d.errors import Problem, RecipeError
from m2d.fit import FilmFit, predicted_size_bytes
from m2d.geometry import ModelGeometry, SceneGeometry
from m2d.joins import CUT, Join
from m2d.layout import SceneLayout
from m2d.placement.modes import DecodeName, MemoryName, Quantized
from m2d.reading import name_problem
from m2d.recipe.backend_choice import DtypeName
from m2d.recipe.checks import TokenCounter, join_problems, recipe_problems, story_warnings
from m2d.recipe.fields import default_output
from m2d.recipe.images import SceneImage, find_images
from m2d.recipe.overrides import COMMAND_LINE, Overrides, apply_overrides
from m2d.recipe.places import Places
from m2d.recipe.plan_defaults import dtype_of, resolved_sampling
from m2d.recipe.plan_loras import LoraFinder, find_loras
from m2d.recipe.schema import LoraChoice, Recipe, ResolvedSampling
from m2d.recipe.words import World
from m2d.windows import Window, extension_windows, reroll_windows, story_windows

if TYPE_CHECKING:
    from m2d.families.source import ModelSource
    from m2d.model.lora_file import LoraUse


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenePlan:
    """One scene with every parameter resolved.

    Attributes:
        prompt: The model's prompt: setting first, cast expanded.
        guidance_scale: 1 means no guidance.
        seed: Seed of this scene's noise; None for a scene of an external video.
        geometry: Sizes of the scene in the model; height and width are those of the whole film.
        loras: LoRAs of its own; those of the whole run are not among them.
        film_frames: Number of frames in the film where it differs from the model's.
        num_prompt_tokens: None without a tokenizer.
        image: Picture that the scene starts from.
    """

    prompt: str
    negative_prompt: str = ""
    guidance_scale: float = 1.0
    seed: int | None = None
    geometry: SceneGeometry
    film_frames: int | None = None
    join: Join = CUT
    match_colour: bool = False
    num_prompt_tokens: int | None = None
    image: SceneImage | None = None
    loras: tuple[LoraChoice, ...] = ()

    @property
    def num_frames(self) -> int:
        """Number of frames in the film."""
        return self.geometry.num_frames if self.film_frames is None else self.film_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowPlan:
    """One pass of the denoising loop: the scenes that take part, and their layout."""

    window: Window
    layout: SceneLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class ExistingFilm:
    """A film that a run extends or changes.

    Attributes:
        chosen: Scenes to regenerate, from 0, ascending; if empty, the recipe's scenes are appended.
        first_given: The first scene that a model can be given.
        fit: How the model's scenes fit a film of another size and rate.
    """

    scenes: tuple[ScenePlan, ...]
    chosen: tuple[int, ...] = ()
    first_scene: int = 0
    first_given: int = 0
    fit: FilmFit | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """A run with every parameter resolved.

    Attributes:
        recipe: The recipe with overrides applied and the model's sampling defaults filled in; provenance
            stores it, and planning it again gives this plan. Its scenes are the targets, in the film's order.
        targets: The scenes to generate, from 0, ascending.
        first_scene: Number of the film's first scene in its story; the noise depends on the story's numbers.
        output: Path of the film; relative to the working directory.
        artifacts: Folder of exported graphs; None means the user's cache.
        memory: Memory mode; `auto` until the run chooses one.
        decode: Decode strategy; `auto` starts with the fastest.
        has_default_dtype: Whether the machine chose `dtype`; a resumed run keeps that of its beginning.
        quantized: How the transformer's weights are stored; None for the model folder's own.
        num_threads: CPU threads that compute the frames; None for as many as torch uses.
        loras: LoRAs of the transformer; their scenes are the film's, from 0.
        fit: How the scenes fit a film of another size and rate than the model's.
    """

    title: str
    recipe: Recipe
    source: ModelSource
    scenes: tuple[ScenePlan, ...]
    targets: tuple[int, ...]
    windows: tuple[WindowPlan, ...]
    sampling: ResolvedSampling
    fps: int
    upscale: int
    upscale_filter: UpscaleFilter
    backend: str
    device: str
    dtype: DtypeName
    output: Path
    predicted_size_bytes: int
    first_scene: int = 0
    warnings: tuple[str, ...] = ()
    artifacts: Path | None = None
    memory: MemoryName = "auto"
    decode: DecodeName = "auto"
    vae_dtype: DtypeName = "float32"
    has_default_dtype: bool = False
    quantized: Quantized | None = None
    num_threads: int | None = None
    loras: tuple[LoraUse, ...] = ()
    fit: FilmFit | None = None

    @property
    def backend_options(self) -> dict[str, str]:
        """Options of the backend as texts; booleans are `true` and `false`."""
        options = self.recipe.backend.options.items()
        return {
            name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options
        }

    def without_backend_options(self) -> RunPlan:
        """Return the same run without backend options, for a backend other than the recipe's."""
        settings = self.recipe.backend.model_copy(update={"options": {}})
        return replace(self, recipe=self.recipe.model_copy(update={"backend": settings}))

    @property
    def layout(self) -> SceneLayout:
        """Layout of the first window; if the story fits into one window, of the whole story."""
        return self.windows[0].layout

    @property
    def scene_geometry(self) -> SceneGeometry:
        """Sizes of the first scene; all scenes share height and width."""
        return self.scenes[0].geometry

    @property
    def num_frames(self) -> int:
        """Number of frames of the film; the frames of a crossfade, which two scenes share, count once."""
        return sum(scene.num_frames - scene.join.num_frames for scene in self.scenes)

    @property
    def duration_s(self) -> float:
        """Length of the film."""
        return self.num_frames / float(self.film_fps)

    @property
    def film_fps(self) -> int | Fraction:
        """Frames of the film per second."""
        return self.fps if self.fit is None else self.fit.fps


def plan_story(
    recipe: Recipe,
    source: ModelSource,
    *,
    film: ExistingFilm | None = None,
    overrides: Overrides | None = None,
    places: Places | None = None,
    count_tokens: TokenCounter | None = None,
    world: World | None = None,
    find_lora: LoraFinder | None = None,
) -> RunPlan:
    """Resolve a recipe for a model.

    Args:
        recipe: The story; with `film`, the new scenes.
        source: The model; only its geometry and name are read.
        count_tokens: The model's tokenizer; without it prompt lengths are not checked.
        world: What the model draws; None for a model with an open vocabulary.
        find_lora: Finds the file of a LoRA; a recipe with LoRAs needs it.

    Raises:
        RecipeError: Sizes that the model cannot make, joins, prompts, LoRAs or overrides that do not fit.
    """
    overrides, places = overrides or Overrides(), places or Places(path="recipe")
    recipe, images = find_images(apply_overrides(recipe, overrides), places)
    sampling = resolved_sampling(recipe.sampling, source.sampling)
    loras = find_loras(recipe, find_lora, places=places if overrides.loras is None else COMMAND_LINE)
    dtype = dtype_of(recipe.backend, source, device := recipe.backend.device or "cpu", overrides.cpu_dtype)
    backend = recipe.backend.model_copy(update={"device": device, "dtype": dtype})
    update = {"sampling": sampling.as_recorded(), "loras": loras.recorded(), "backend": backend}
    recipe, geometry = recipe.model_copy(update=update), source.geometry
    problems = recipe_problems(recipe, geometry, places=places, count_tokens=count_tokens)
    if problems := [*loras.problems, *problems, *_output_problems(recipe, overrides, places)]:
        raise RecipeError(problems, remedy=loras.remedy)
    plain = _scene_plans(recipe, sampling, geometry, count_tokens=count_tokens)
    made = [
        replace(scene, image=image, loras=loras.of_scene(index))
        for index, (scene, image) in enumerate(zip(plain, images, strict=True))
    ]
    scenes, targets = _placed(made, film)
    joins = [(scene.join, scene.num_frames) for scene in scenes]
    if problems := join_problems(joins, targets=targets, places=places):
        raise RecipeError(problems)
    windows = _windows(scenes, targets, recipe, geometry, film=film)
    warnings = story_warnings(
        recipe,
        geometry,
        places=places,
        world=world,
        num_scenes=len(scenes),
        is_joint=source.is_joint,
        trained_mask=source.mask if source.is_joint else None,
    )
    num_frames, upscale = sum(scene.num_frames for scene in scenes), recipe.video.upscale.factor
    fit = film.fit if film is not None else None
    return RunPlan(
        title=recipe.title,
        recipe=recipe,
        source=source,
        scenes=scenes,
        targets=targets,
        windows=windows,
        sampling=sampling,
        fps=recipe.video.fps or geometry.default_fps,
        upscale=upscale,
        upscale_filter=recipe.video.upscale.filter,
        backend=recipe.backend.name,
        device=device,
        dtype=dtype,
        memory=backend.memory,
        decode=backend.decode,
        vae_dtype=backend.vae_dtype,
        output=overrides.out or Path(recipe.output or default_output(recipe.title)),
        predicted_size_bytes=predicted_size_bytes(num_frames, scenes[0].geometry, upscale, fit=fit),
        fit=fit,
        first_scene=film.first_scene if film is not None else 0,
        artifacts=overrides.artifacts,
        loras=loras.uses(targets, windows, [scene.loras for scene in scenes], find=find_lora),
        warnings=(*loras.warnings, *warnings),
    )


def _output_problems(recipe: Recipe, overrides: Overrides, places: Places) -> list[Problem]:
    problem = "" if overrides.out else name_problem(recipe.output or "")
    return [places.problem(("output",), f"{recipe.output}: {problem}")] if problem else []


def _scene_plans(
    recipe: Recipe,
    story: ResolvedSampling,
    geometry: ModelGeometry,
    *,
    count_tokens: TokenCounter | None,
) -> list[ScenePlan]:
    video = recipe.video
    return [
        ScenePlan(
            prompt=prompt,
            negative_prompt=story.negative_prompt if scene.negative_prompt is None else scene.negative_prompt,
            guidance_scale=story.guidance_scale if scene.guidance_scale is None else scene.guidance_scale,
            seed=story.seed if scene.seed is None else scene.seed,
            geometry=geometry.scene(
                num_frames=scene.frames or video.num_frames or geometry.default_num_frames,
                height=video.height or geometry.default_height,
                width=video.width or geometry.default_width,
            ),
            join=scene.joined,
            match_colour=video.match_colour if scene.match_colour is None else scene.match_colour,
            num_prompt_tokens=count_tokens(prompt) if count_tokens else None,
        )
        for scene, prompt in zip(recipe.scenes, recipe.full_prompts(), strict=True)
    ]


def _placed(
    made: Sequence[ScenePlan], film: ExistingFilm | None
) -> tuple[tuple[ScenePlan, ...], tuple[int, ...]]:
    """Return all scenes of the film, and the numbers of those to generate."""
    before = film.scenes if film is not None else ()
    if film is not None and film.fit is not None:
        made = [replace(scene, film_frames=film.fit.num_shown(scene.geometry.num_frames)) for scene in made]
    if film is None or not film.chosen:
        return (*before, *made), tuple(range(len(before), len(before) + len(made)))
    scenes = list(before)
    for number, scene in zip(film.chosen, made, strict=True):
        scenes[number] = replace(scene, join=before[number].join)
    return tuple(scenes), film.chosen


def _windows(
    scenes: tuple[ScenePlan, ...],
    targets: tuple[int, ...],
    recipe: Recipe,
    geometry: ModelGeometry,
    *,
    film: ExistingFilm | None,
) -> tuple[WindowPlan, ...]:
    capacity = recipe.jointly or geometry.num_scenes
    anchor = None if recipe.context == "recent" else film.first_given if film is not None else 0
    if film is None:
        alone = {number for number, scene in enumerate(scenes) if scene.join.kind == "continue"}
        windows = story_windows(len(scenes), capacity=capacity, alone=alone, anchor=anchor)
    elif film.chosen:
        windows = reroll_windows(len(scenes), film.chosen, capacity=capacity, anchor=anchor)
    else:
        windows = extension_windows(len(film.scenes), len(targets), capacity=capacity, anchor=anchor)
    return tuple(
        WindowPlan(
            window=window,
            layout=SceneLayout.build(
                recipe.mask,
                text_tokens=[geometry.max_text_tokens] * len(window.scenes),
                latent_frames=[scenes[number].geometry.num_latent_frames for number in window.scenes],
                tokens_per_frame=scenes[0].geometry.tokens_per_frame,
                frames_per_token=geometry.temporal_patch_size,
            ),
        )
        for window in windows
    )
