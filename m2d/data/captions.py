"""Checks of captions before any work: too long, empty, or with words that the text encoder does not know."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from m2d.data.dataset_text import Problems, Shot, first_few
from m2d.video.printable import counted

_MOST_WORDS = 12
_LONGEST_WORD = 30


def check_captions(shots: Sequence[Shot], *, count_tokens: Callable[[str], int], max_tokens: int) -> None:
    """Reject all captions that are too long for the text encoder.

    Raises:
        DatasetError: Some captions have more than `max_tokens`.
    """
    problems = Problems()
    counts: dict[str, int] = {}
    for shot in shots:
        if shot.caption not in counts:
            counts[shot.caption] = count_tokens(shot.caption)
        count = counts[shot.caption]
        if count > max_tokens:
            problems.add(
                shot.place,
                f"caption {shot.caption[:40]!r}: {count} tokens, the end token included; the model takes at "
                f"most {max_tokens}; shorten it by {count - max_tokens}",
            )
    problems.refuse()


def caption_warnings(shots: Sequence[Shot], *, unknown_words: Callable[[str], list[str]]) -> list[str]:
    """Return warnings about empty captions and unknown words, each with places and a count.

    Args:
        unknown_words: Returns the words of a text that the text encoder does not know.
    """
    warnings = []
    empty = [shot.place for shot in shots if not shot.caption.strip()]
    if empty:
        warnings.append(
            f"{len(empty)} of {counted(len(shots), 'caption')} without text ({first_few(empty)}): these "
            "clips are trained on without a prompt; write captions, or leave the clips out"
        )
    places: dict[str, list[str]] = {}
    unknown: dict[str, list[str]] = {}
    for shot in shots:
        if shot.caption not in unknown:
            unknown[shot.caption] = unknown_words(shot.caption)
        for word in unknown[shot.caption]:
            places.setdefault(word, []).append(shot.place)
    if not places:
        return warnings
    num_captions = len({place for found in places.values() for place in found})
    by_count = sorted(places, key=lambda word: -len(places[word]))
    named = [f"{word[:_LONGEST_WORD]!r} ({len(places[word])}x)" for word in by_count[:_MOST_WORDS]]
    more = f" and {len(places) - _MOST_WORDS} more" if len(places) > _MOST_WORDS else ""
    warnings.append(
        f"the model does not know {counted(len(places), 'word')} in {num_captions} of "
        f"{counted(len(shots), 'caption')}: "
        f"{', '.join(named)}{more}; first in {places[by_count[0]][0]}. All unknown words are the same to it: "
        "use words that it knows, or a model that reads any text, such as CogVideoX"
    )
    return warnings
