"""The vocabulary of the puppet theatre: settings, actors and actions.

Owns the closed sets that every other puppet module indexes into. Imports no torch, so that checks are fast.
"""

from __future__ import annotations

from m2d.recipe.words import World

SETTINGS = ("park", "desert", "snowfield", "beach", "city", "forest")
TIMES = ("noon", "dusk", "night")
SHAPES = ("round", "square", "tall", "triangle")
COLOURS = ("red", "yellow", "green", "blue", "purple", "white")
HATS = ("no hat", "top hat", "party hat", "wool cap")
ACTIONS = ("walks right", "walks left", "jumps", "waves", "stands still", "bows")
EYES = ("dots", "wide")
ACTORS = ("Actor1", "Actor2")

# Synonyms of each action; the text encoder learns them all.
ACTION_PHRASES: dict[str, tuple[str, ...]] = {
    "walks right": ("walks right", "walks to the right", "strolls right"),
    "walks left": ("walks left", "walks to the left", "strolls left"),
    "jumps": ("jumps", "hops", "leaps"),
    "waves": ("waves", "greets"),
    "stands still": ("stands still", "waits"),
    "bows": ("bows", "bends"),
}

_CONNECTIVES = ("at", "and", "while", "the", "to", "a", "body", "happily", "slowly", "again")

PAD_TOKEN = "<pad>"
END_TOKEN = "</s>"
UNKNOWN_TOKEN = "<unk>"
PUNCTUATION = (".", ",", "(", ")")


def _words(*groups: tuple[str, ...]) -> frozenset[str]:
    return frozenset(word.lower() for group in groups for phrase in group for word in phrase.split())


KNOWN_WORDS: frozenset[str] = _words(
    SETTINGS, TIMES, SHAPES, COLOURS, HATS, ACTORS, _CONNECTIVES, *ACTION_PHRASES.values()
)


WORLD = World(
    draws="puppets",
    words=KNOWN_WORDS,
    settings=(*SETTINGS, *(f"at {time}" for time in TIMES)),
    looks=(*SHAPES, *COLOURS, *HATS),
    actions=ACTIONS,
)


def token_list() -> tuple[str, ...]:
    """Return every token of the puppet tokenizer in id order: special ones, punctuation, sorted words."""
    return (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN, *PUNCTUATION, *sorted(KNOWN_WORDS))
