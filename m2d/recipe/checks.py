"""Checks of a recipe that depend on the model: problems that stop a run, and warnings.

Owns the checks and their wording; resolves and changes nothing. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from difflib import get_close_matches

from m2d.errors import Problem
from m2d.geometry import GeometryError, ModelGeometry
from m2d.joins import Join
from m2d.limits import LARGEST_SIDE
from m2d.recipe.cast import find_mentions, other_brackets
from m2d.recipe.places import KeyPath, Places, show
from m2d.recipe.schema import Recipe

TokenCounter = Callable[[str], int]
"""Counts a prompt's tokens, the end-of-text token included."""

_MAX_NAMED_WORDS = 20
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_MAX_COMPARED_CHARACTERS = 40
# Below this ratio difflib proposes words that only share letters, such as greets for orange.
_MIN_LIKENESS = 0.7


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
        written = wanted * recipe.video.upscale
        if name != "num_frames" and written > LARGEST_SIDE:
            enlarged = f"{wanted} times upscale {recipe.video.upscale} is {written} pixels"
            message = f"{enlarged}; at most {LARGEST_SIDE} are allowed, use a smaller upscale"
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


def story_warnings(
    recipe: Recipe,
    geometry: ModelGeometry,
    *,
    places: Places,
    known_words: frozenset[str] | None,
    num_scenes: int,
    trained_mask: str | None = None,
) -> tuple[str, ...]:
    """Return the warnings; each starts with its place in the recipe.

    Args:
        recipe: A recipe that the model can run.
        geometry: Sizes and counts that the model was trained with.
        known_words: Vocabulary of the model; None for a model with an open vocabulary.
        trained_mask: The mask the model was trained with; None skips the comparison.
    """
    found = [
        *_count_warnings(num_scenes, geometry),
        *_size_warnings(recipe, geometry),
        *(_mask_warnings(recipe.mask, trained_mask) if num_scenes > 1 else []),
        *_cast_warnings(recipe),
        *(_word_warnings(recipe, known_words) if known_words is not None else []),
    ]
    return tuple(str(places.problem(key_path, message)) for key_path, message in found)


def unknown_words(text: str, known_words: Iterable[str]) -> list[str]:
    """Return the words of `text` that are not in `known_words`, each once, in lower case."""
    known = {word.lower() for word in known_words}
    return [word for word in dict.fromkeys(_WORD.findall(text.lower())) if word not in known]


def _count_warnings(num_scenes: int, geometry: ModelGeometry) -> list[tuple[KeyPath, str]]:
    if num_scenes >= geometry.num_scenes:
        return []
    message = f"{num_scenes} of the {geometry.num_scenes} scenes the model was trained on; all look best"
    return [(("scenes",), message)]


def _size_warnings(recipe: Recipe, geometry: ModelGeometry) -> list[tuple[KeyPath, str]]:
    trained = _default_sizes(geometry)
    return [
        (key_path, f"{wanted}, but the model was trained with {trained[name]}; other sizes look worse")
        for key_path, name, wanted in _asked_sizes(recipe)
        if wanted != trained[name]
    ]


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


def _word_warnings(recipe: Recipe, known_words: frozenset[str]) -> list[tuple[KeyPath, str]]:
    first_use: dict[str, KeyPath] = {}
    for key_path, text in _model_texts(recipe):
        for word in unknown_words(text, known_words):
            first_use.setdefault(word, key_path)
    warnings = [
        (key_path, _word_message(word, known_words))
        for word, key_path in list(first_use.items())[:_MAX_NAMED_WORDS]
    ]
    if len(first_use) > _MAX_NAMED_WORDS:
        warnings.append(((), f"{len(first_use) - _MAX_NAMED_WORDS} more words are unknown to the model"))
    return warnings


def _model_texts(recipe: Recipe) -> list[tuple[KeyPath, str]]:
    texts: list[tuple[KeyPath, str | None]] = [(("cast", name), text) for name, text in recipe.cast.items()]
    texts.append((("setting",), recipe.setting))
    texts.append((("sampling", "negative_prompt"), recipe.sampling.negative_prompt))
    for index, scene in enumerate(recipe.scenes):
        texts.append((("scenes", index, "setting"), scene.setting))
        texts.append((("scenes", index, "prompt"), scene.prompt))
        texts.append((("scenes", index, "negative_prompt"), scene.negative_prompt))
    return [(key_path, text) for key_path, text in texts if text]


def _word_message(word: str, known_words: frozenset[str]) -> str:
    candidates = sorted({known.lower() for known in known_words})
    nearest = get_close_matches(word[:_MAX_COMPARED_CHARACTERS], candidates, n=3, cutoff=_MIN_LIKENESS)
    hint = f"; nearest known: {', '.join(nearest)}" if nearest else ""
    return f"the model does not know the word {show(word)}{hint}"
