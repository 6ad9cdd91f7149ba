"""Checks of a recipe that depend on the model: sizes, prompt lengths, joins.

Owns the checks and their wording; resolves nothing. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from m2d.errors import Problem
from m2d.geometry import GeometryError, ModelGeometry
from m2d.joins import Join
from m2d.recipe.places import KeyPath, Places
from m2d.recipe.schema import Recipe

TokenCounter = Callable[[str], int]
"""Counts a prompt's tokens, the end-of-text token included."""

_MAX_WRITTEN_SIDE = 8192


def default_sizes(geometry: ModelGeometry) -> dict[str, int]:
    """Return the sizes that the model was trained with, as arguments of `ModelGeometry.scene`."""
    return {name: getattr(geometry, f"default_{name}") for name in ("num_frames", "height", "width")}


def asked_sizes(recipe: Recipe) -> Iterator[tuple[KeyPath, str, int]]:
    """Yield the key path, the name in `ModelGeometry.scene` and the value of every size in a recipe."""
    for name in ("num_frames", "height", "width"):
        if (wanted := getattr(recipe.video, name)) is not None:
            yield ("video", name), name, wanted
    for index, scene in enumerate(recipe.scenes):
        if scene.frames is not None:
            yield ("scenes", index, "frames"), "num_frames", scene.frames


def size_problems(recipe: Recipe, geometry: ModelGeometry, *, places: Places) -> list[Problem]:
    """Return the sizes that the model cannot generate.

    Each size is checked with the model's defaults for the others, so that only the wrong ones are reported.
    """
    problems = []
    defaults = default_sizes(geometry)
    for key_path, name, wanted in asked_sizes(recipe):
        try:
            geometry.scene(**{**defaults, name: wanted})
        except GeometryError as error:
            problems.append(places.problem(key_path, str(error).removeprefix(f"{name}: ")))
            continue
        written = wanted * recipe.video.upscale
        if name != "num_frames" and written > _MAX_WRITTEN_SIDE:
            enlarged = f"{wanted} times upscale {recipe.video.upscale} is {written} pixels"
            message = f"{enlarged}; at most {_MAX_WRITTEN_SIDE} are allowed, use a smaller upscale"
            problems.append(places.problem(key_path, message))
    return problems


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
