"""Finds words that are not in a model's vocabulary, and the most similar words that are.

Owns the comparison; the vocabulary belongs to the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
_MAX_COMPARED_CHARACTERS = 40
# Below this ratio difflib proposes words that only share letters, such as greets for orange.
_MIN_LIKENESS = 0.7


def unknown_words(text: str, known_words: Iterable[str]) -> list[str]:
    """Return the words of `text` that are not in `known_words`, each once, in lower case."""
    known = {word.lower() for word in known_words}
    return [word for word in dict.fromkeys(_WORD.findall(text.lower())) if word not in known]


def nearest_words(word: str, known_words: Iterable[str]) -> list[str]:
    """Return up to three known words with a spelling similar to `word`, the most similar first."""
    candidates = sorted({known.lower() for known in known_words})
    return get_close_matches(word[:_MAX_COMPARED_CHARACTERS], candidates, n=3, cutoff=_MIN_LIKENESS)
