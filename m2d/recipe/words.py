"""Warnings about words that a model of a small world does not know.

Owns the world as recipes see it, and what is suggested instead of an unknown word. Imports no torch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from m2d.recipe.places import KeyPath, show
from m2d.recipe.schema import Recipe

_MAX_NAMED_WORDS = 20
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
# A story is in another language, or about another world, when more of its words are unknown.
_MOST = 0.5
# Shorter words have too many neighbours: a dark forest is no park.
_SHORTEST_MISSPELT, _SHORTEST_EXCHANGED = 4, 5


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The world that a model draws.

    Attributes:
        draws: What it draws, such as `puppets`.
        words: All words that it knows.
        settings: Places and times, as phrases.
        looks: Bodies, colours and clothes of actors, as phrases.
        actions: What actors do, as phrases.
    """

    draws: str
    words: frozenset[str]
    settings: tuple[str, ...]
    looks: tuple[str, ...]
    actions: tuple[str, ...]

    def __str__(self) -> str:
        """Describe it in one line."""
        kinds = {"settings": self.settings, "actors": self.looks, "actions": self.actions}
        known = "; ".join(f"{kind}: {', '.join(phrases)}" for kind, phrases in kinds.items())
        return f"this model draws only {self.draws} ({known}); a CogVideoX folder as the model draws all else"


def unknown_words(text: str, known_words: Iterable[str]) -> list[str]:
    """Return the words of `text` that are not in `known_words`, each once, in lower case."""
    known = {word.lower() for word in known_words}
    return [word for word in dict.fromkeys(_words_of(text)) if word not in known]


def word_warnings(recipe: Recipe, world: World) -> list[tuple[KeyPath, str]]:
    """Return what a model of a small world cannot draw: the world once, then the words with suggestions.

    A story in another language, or most of whose words are unknown, or with a scene without words, gets only
    the first.
    """
    for number, scene in enumerate(recipe.scenes):
        if not _words_of(scene.prompt):
            return [(("scenes", number, "prompt"), str(world))]
    first_use: dict[str, KeyPath] = {}
    for key_path, text in _model_texts(recipe):
        for word in unknown_words(text, world.words):
            first_use.setdefault(word, key_path)
    if not first_use:
        return []
    first = next(iter(first_use.values()))
    if _is_foreign(recipe, world):
        return [(first, str(world))]
    hints = {word: _hint(word, key_path, world) for word, key_path in first_use.items()}
    warnings = [] if all(hints.values()) else [(first, str(world))]
    for word, key_path in list(first_use.items())[:_MAX_NAMED_WORDS]:
        hint = f"; did you mean {hints[word]}?" if hints[word] else ""
        warnings.append((key_path, f"the model does not know the word {show(word)}{hint}"))
    if len(first_use) > _MAX_NAMED_WORDS:
        warnings.append(((), f"{len(first_use) - _MAX_NAMED_WORDS} more words are unknown to the model"))
    return warnings


def _is_foreign(recipe: Recipe, world: World) -> bool:
    """Whether the scenes are in another script, or most of their words are unknown."""
    names = {name.lower() for name in recipe.cast}
    texts = [recipe.setting or "", *(f"{scene.setting or ''} {scene.prompt}" for scene in recipe.scenes)]
    words = [word for text in texts for word in _words_of(text) if word not in names]
    if any(not _is_latin(word) for word in words):
        return True
    return sum(word not in world.words for word in words) > _MOST * len(words)


def _is_latin(word: str) -> bool:
    return all(unicodedata.name(letter, "").startswith("LATIN ") for letter in word if letter.isalpha())


def _hint(word: str, key_path: KeyPath, world: World) -> str:
    """Return the known word that `word` misspells, of those that belong where it stands; empty for none."""
    field = key_path[0] if key_path[0] in ("cast", "setting") else key_path[-1]
    kinds: Mapping[object, tuple[str, ...]] = {
        "cast": world.looks,
        "setting": world.settings,
        "prompt": world.actions,
    }
    phrases = kinds.get(field, (*world.settings, *world.looks, *world.actions))
    candidates = dict.fromkeys(known for phrase in phrases for known in phrase.lower().split())
    if f"{word}s" in candidates:
        return f"{word}s"
    return next((known for known in candidates if _is_misspelt(word, known)), "")


def _is_misspelt(word: str, known: str) -> bool:
    """Whether one slip turns `known` into `word`: a letter missing, added, exchanged, or two swapped.

    The first letter of a misspelt word is nearly always right.
    """
    if min(len(word), len(known)) < _SHORTEST_MISSPELT or word[0] != known[0]:
        return False
    if len(word) != len(known):
        longer, shorter = sorted((word, known), key=len, reverse=True)
        return any(longer[:place] + longer[place + 1 :] == shorter for place in range(len(longer)))
    wrong = [place for place in range(len(word)) if word[place] != known[place]]
    if len(wrong) == 1:
        return len(word) >= _SHORTEST_EXCHANGED
    return len(wrong) == 2 and [word[place] for place in wrong] == [known[place] for place in reversed(wrong)]


def _words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _model_texts(recipe: Recipe) -> Iterator[tuple[KeyPath, str]]:
    texts: list[tuple[KeyPath, str | None]] = [(("cast", name), text) for name, text in recipe.cast.items()]
    texts.append((("setting",), recipe.setting))
    texts.append((("sampling", "negative_prompt"), recipe.sampling.negative_prompt))
    for index, scene in enumerate(recipe.scenes):
        texts.append((("scenes", index, "setting"), scene.setting))
        texts.append((("scenes", index, "prompt"), scene.prompt))
        texts.append((("scenes", index, "negative_prompt"), scene.negative_prompt))
    yield from ((key_path, text) for key_path, text in texts if text)
