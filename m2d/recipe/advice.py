"""Warnings about a valid recipe that will probably not give the film its author wants.

Owns the wording; changes nothing.
"""

from __future__ import annotations

from m2d.geometry import ModelGeometry
from m2d.recipe.cast import find_mentions, other_brackets
from m2d.recipe.places import KeyPath, Places, show
from m2d.recipe.schema import Recipe
from m2d.recipe.words import nearest_words, unknown_words

_MAX_NAMED_WORDS = 20


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
        places: Lines and columns of the recipe's fields.
        known_words: Vocabulary of the model; None for a model with an open vocabulary.
        num_scenes: Number of scenes of the whole film.
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


def _count_warnings(num_scenes: int, geometry: ModelGeometry) -> list[tuple[KeyPath, str]]:
    if num_scenes >= geometry.num_scenes:
        return []
    message = f"{num_scenes} of the {geometry.num_scenes} scenes the model was trained on; all look best"
    return [(("scenes",), message)]


def _size_warnings(recipe: Recipe, geometry: ModelGeometry) -> list[tuple[KeyPath, str]]:
    trained = {
        "num_frames": geometry.default_num_frames,
        "height": geometry.default_height,
        "width": geometry.default_width,
    }
    asked: list[tuple[KeyPath, int | None, int]] = [
        (("video", name), getattr(recipe.video, name), default) for name, default in trained.items()
    ]
    asked += [
        (("scenes", index, "frames"), scene.frames, geometry.default_num_frames)
        for index, scene in enumerate(recipe.scenes)
    ]
    return [
        (key_path, f"{wanted}, but the model was trained with {default}; other sizes look worse")
        for key_path, wanted, default in asked
        if wanted not in (None, default)
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
    nearest = nearest_words(word, known_words)
    hint = f"; nearest known: {', '.join(nearest)}" if nearest else ""
    return f"the model does not know the word {show(word)}{hint}"
