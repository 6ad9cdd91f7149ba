"""Read from a prompt's text which properties of a puppet scene it names; the inverse of `captions`."""

from __future__ import annotations

import re

from m2d.puppet.vocabulary import ACTION_PHRASES, ACTIONS, ACTORS, COLOURS, HATS, SETTINGS, SHAPES, TIMES

_MENTION = re.compile(rf"\b({'|'.join(ACTORS)})\b(?:\s*\(([^()]*)\))?", re.IGNORECASE)
_BRACKETS = re.compile(r"\([^()]*\)")
_PLACES: dict[str, tuple[str, ...]] = {"setting": SETTINGS, "time": TIMES}
_LOOKS: dict[str, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS, "hat": HATS}
_ACTION_OF = {phrase: index for index, name in enumerate(ACTIONS) for phrase in (name, *ACTION_PHRASES[name])}


def prompt_labels(prompt: str) -> dict[str, int]:
    """Return the class of every property that a prompt names, by the keys of `labels.PROMPTED_CLASSES`.

    A prompt that mentions actors says of each actor whether it is on stage. A property that is not named, or
    not in the vocabulary, has no entry; a property that is named twice has the first class.
    """
    labels: dict[str, int] = {}
    plain = _BRACKETS.sub(" ", prompt)
    for key, words in _PLACES.items():
        _name(labels, key, _first(plain, {word: index for index, word in enumerate(words)}))
    mentions = list(_MENTION.finditer(prompt))
    ends = [*(mention.start() for mention in mentions[1:]), len(prompt)]
    for mention, end in zip(mentions, ends, strict=False):
        actor = mention[1].lower()
        for name, words in _LOOKS.items():
            classes = {word: index for index, word in enumerate(words)}
            _name(labels, f"{actor}.{name}", _first(mention[2] or "", classes))
        _name(labels, f"{actor}.action", _first(prompt[mention.end() : end], _ACTION_OF))
    if mentions:
        seen = {mention[1].lower() for mention in mentions}
        labels |= {f"{actor.lower()}.on_stage": int(actor.lower() in seen) for actor in ACTORS}
    return labels


def _first(text: str, classes: dict[str, int]) -> int | None:
    """Return the class of the phrase that comes first in a text."""
    found = [
        (match.start(), index)
        for phrase, index in classes.items()
        if (match := re.search(rf"\b{phrase}\b", text, re.IGNORECASE))
    ]
    return min(found)[1] if found else None


def _name(labels: dict[str, int], key: str, label: int | None) -> None:
    if label is not None:
        labels.setdefault(key, label)
