"""Checks of a recipe that depend on the model: problems that stop a run, and warnings.

Owns the checks and their wording; resolves and changes nothing. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from m2d.errors import Problem
from m2d.geometry import GeometryError, ModelGeometry
from m2d.joins import Join
from m2d.limits import LARGEST_SIDE
from m2d.recipe.cast import find_mentions, other_brackets
from m2d.recipe.places import KeyPath, Places
from m2d.recipe.schema import Recipe
from m2d.recipe.words import World, word_warnings

TokenCounter = Callable[[str], int]
"""Counts a prompt's tokens, the end-of-text token included."""


def _default_sizes(geometry: ModelGeometry) -> dict[str, int]:
    """Return the sizes that the model was trained with, as arguments of `ModelGeometry.scene`."""
    return {name: getattr(geometry, f"default_{name}") for name in ("num_frames", "height", "width")}


def _asked_sizes(recipe: Recipe) -> Iterator[tuple[KeyPath, str, int]]:
    """Yield the key path, the name in `ModelGeometry.scene` and the value of every size in a recipe."""
    for name in ("num_frames", "height", "width"):
        if (wanted := getattr(recipe.video, name)) is not None:
            yield ("video", name), name, wanted
    for index, scene in enumerate(recipe.scenes):
        if scene.frames is not None:
            yield ("scenes", index, "frames"), "num_frames", scene.frames


def recipe_problems(
    recipe: Recipe, geometry: ModelGeometry, *, places: Places, count_tokens: TokenCounter | None
) -> list[Problem]:
    """Return everything in a recipe that a model cannot make, except its joins and LoRAs."""
    prompts = recipe.full_prompts()
    return [
        *size_problems(recipe, geometry, places=places),
        *image_problems(recipe, geometry, places=places),
        *length_problems(recipe, prompts, geometry, places=places, count_tokens=count_tokens),
    ]


def size_problems(recipe: Recipe, geometry: ModelGeometry, *, places: Places) -> list[Problem]:
    """Return the sizes that the model cannot generate.

    Each size is checked with the model's defaults for the others, so that only the wrong ones are reported.
    """
    problems = []
    defaults = _default_sizes(geometry)
    for key_path, name, wanted in _asked_sizes(recipe):
        try:
            geometry.scene(**{**defaults, name: wanted})
        except GeometryError as error:
            problems.append(places.problem(key_path, str(error).removeprefix(f"{name}: ")))
            continue
        factor = recipe.video.upscale.factor
        written = wanted * factor
        if name != "num_frames" and written > LARGEST_SIDE:
            enlarged = f"{wanted} times upscale {factor} is {written} pixels"
            message = f"{enlarged}; at most {LARGEST_SIDE} are allowed, use a smaller upscale"
            problems.append(places.problem(key_path, message))
    return problems


def image_problems(recipe: Recipe, geometry: ModelGeometry, *, places: Places) -> list[Problem]:
    """Return the scenes whose image the model does not take, or that lack the one it needs."""
    problems = []
    for index, scene in enumerate(recipe.scenes):
        field, message = "image", ""
        if not geometry.takes_images and scene.image is not None:
            message = "the model takes no images; image-to-video models do, such as CogVideoX-5b-I2V"
            if ("scenes", index, "image") not in places.values and ("image",) in places.values:
                # The story's own, which all scenes have.
                problems.append(places.problem(("image",), message))
                continue
        elif scene.image is not None and scene.join == "continue":
            message = "the scene starts from the last frame of the one before it; remove image or join"
        elif geometry.image_channels and scene.image is None and scene.join != "continue":
            field, message = (
                "prompt",
                "the model needs a picture to start from; give image: first.png, or join: continue",
            )
        if message:
            problems.append(places.problem(("scenes", index, field), message))
    return list(dict.fromkeys(problems))


def length_problems(
    recipe: Recipe,
    prompts: Sequence[str],
    geometry: ModelGeometry,
    *,
    places: Places,
    count_tokens: TokenCounter | None,
) -> list[Problem]:
    """Return the expanded prompts that have too many tokens; none without a tokenizer."""
    if count_tokens is None:
        return []
    texts: list[tuple[KeyPath, str]] = [
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


def join_problems(
    scenes: Sequence[tuple[Join, int]], *, targets: Sequence[int], places: Places
) -> list[Problem]:
    """Return the joins that do not fit their scenes.

    Args:
        scenes: Join and number of frames of every scene of the film.
        targets: The scenes that the recipe describes, in its order; only these are checked.
    """
    problems = []
    for index, number in enumerate(targets):
        message = _join_message(scenes, number)
        if message:
            problems.append(places.problem(("scenes", index, "join"), message))
    return problems


def _join_message(scenes: Sequence[tuple[Join, int]], number: int) -> str:
    join, num_frames = scenes[number]
    if join.kind == "cut":
        return ""
    if number == 0:
        return f"{join.kind}, but nothing comes before the first scene; remove it"
    before, num_frames_before = scenes[number - 1]
    # At least one frame of each scene is not shared.
    room = min(num_frames_before - before.num_frames, num_frames) - 1
    if join.num_frames > room:
        return f"a crossfade of {join.num_frames} frames, but the two scenes have room for {max(room, 0)}"
    return ""


def story_warnings(
    recipe: Recipe,
    geometry: ModelGeometry,
    *,
    places: Places,
    world: World | None,
    num_scenes: int,
    is_joint: bool,
    trained_mask: str | None = None,
) -> tuple[str, ...]:
    """Return the warnings; each starts with its place in the recipe.

    Args:
        recipe: A recipe that the model can run.
        geometry: Sizes and counts that the model was trained with.
        world: What the model draws; None for a model with an open vocabulary.
        is_joint: Whether the model is known to be trained on several scenes together.
        trained_mask: The mask the model was trained with; None skips the comparison.
    """
    found = [
        *(_joint_warnings(recipe.jointly, num_scenes, geometry) if is_joint else _single_warnings(recipe)),
        *_size_warnings(recipe, geometry),
        *(_mask_warnings(recipe.mask, trained_mask) if num_scenes > 1 else []),
        *_cast_warnings(recipe),
        *(word_warnings(recipe, world) if world is not None else []),
    ]
    return tuple(str(places.problem(key_path, message)) for key_path, message in found)


def _joint_warnings(
    jointly: int | None, num_scenes: int, geometry: ModelGeometry
) -> list[tuple[KeyPath, str]]:
    found: list[tuple[KeyPath, str]] = []
    trained = geometry.num_scenes
    if num_scenes < trained:
        message = f"{num_scenes} of the {trained} scenes the model was trained on; all look best"
        found.append((("scenes",), message))
    if jointly not in (None, trained):
        message = f"{jointly}, but the model was trained on {trained} scenes together; others look worse"
        found.append((("jointly",), message))
    return found


def _single_warnings(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    if len(recipe.scenes) == 1:
        return []
    message = (
        "CogVideoX was trained on single scenes, so several may not fit each other; use weights that were "
        "fine-tuned on several"
    )
    return [(("scenes",), message)]


def _size_warnings(recipe: Recipe, geometry: ModelGeometry) -> list[tuple[KeyPath, str]]:
    trained = _default_sizes(geometry)
    warnings: list[tuple[KeyPath, str]] = []
    video = recipe.video
    width, height = video.width or geometry.default_width, video.height or geometry.default_height
    if (width, height) != (geometry.default_width, geometry.default_height):
        side = "height" if height != geometry.default_height else "width"
        size = f"{geometry.default_width}x{geometry.default_height}"
        message = f"pictures of {width}x{height}, but the model was trained with {size}; others look worse"
        warnings.append((("video", side), message))
    warnings += [
        (key_path, f"{wanted}, but the model was trained with {trained[name]}; other lengths look worse")
        for key_path, name, wanted in _asked_sizes(recipe)
        if name == "num_frames" and wanted != trained[name]
    ]
    return warnings


def _mask_warnings(mask: str, trained: str | None) -> list[tuple[KeyPath, str]]:
    if trained in (None, mask):
        return []
    message = f"{mask}, but the model was trained with {trained}; scenes may look worse or fit less well"
    return [(("mask",), message)]


def _cast_warnings(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    named = {mention.name for scene in recipe.scenes for mention in find_mentions(scene.prompt, recipe.cast)}
    unused: list[tuple[KeyPath, str]] = [
        (("cast", name), "no scene names this actor") for name in recipe.cast if name not in named
    ]
    bracketed: list[tuple[KeyPath, str]] = [
        (
            ("scenes", index, "prompt"),
            f"{name} has brackets of its own; the cast's description is put before them",
        )
        for index, scene in enumerate(recipe.scenes)
        for name in other_brackets(scene.prompt, recipe.cast)
    ]
    return unused + bracketed
