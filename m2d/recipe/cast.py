"""The cast in the prompts of a story: every mention of an actor is followed by the actor's description.

Mask2DiT's prompts repeat `Actor1 (round red body, wool cap)` verbatim in every scene (paper, Figure 5), since
the frames of a scene attend only to that scene's text. Owns finding, expanding and shortening mentions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_ACTOR_NUMBER = re.compile(r"(?<!\w)actor[0-9]+(?!\w)", re.IGNORECASE)

_DESCRIBED = re.compile(r"\b(Actor[1-9][0-9]*)\s*\(([^()]+)\)")


class Mention(NamedTuple):
    """The offsets of one actor's name in a text.

    `described_stop` is the offset after the description in brackets; `stop` if no description follows.
    """

    name: str
    start: int
    stop: int
    described_stop: int


def find_mentions(text: str, cast: Mapping[str, str]) -> list[Mention]:
    """Return the mentions of actors in `text`, in order; names inside a description are not mentions."""
    if not cast:
        return []
    names = "|".join(re.escape(name) for name in sorted(cast, key=len, reverse=True))
    pattern = re.compile(rf"(?<!\w)(?:{names})(?!\w)")
    found, position = [], 0
    while match := pattern.search(text, position):
        described = re.compile(rf"\s*\({re.escape(cast[match.group()])}\)", re.IGNORECASE).match(
            text, match.end()
        )
        position = described.end() if described else match.end()
        found.append(Mention(match.group(), match.start(), match.end(), position))
    return found


def expand_prompt(prompt: str, cast: Mapping[str, str]) -> str:
    """Add the description in brackets after every mention that lacks it; expanding again changes nothing."""
    pieces, position = [], 0
    for mention in find_mentions(prompt, cast):
        pieces.append(prompt[position : mention.described_stop])
        if mention.described_stop == mention.stop:
            pieces.append(f" ({cast[mention.name]})")
        position = mention.described_stop
    return "".join(pieces) + prompt[position:]


def shorten_prompt(prompt: str, cast: Mapping[str, str]) -> str:
    """Remove the descriptions, provided that `expand_prompt` restores exactly `prompt`."""
    pieces, position = [], 0
    for mention in find_mentions(prompt, cast):
        pieces.append(prompt[position : mention.stop])
        position = mention.described_stop
    shortened = "".join(pieces) + prompt[position:]
    return shortened if expand_prompt(shortened, cast) == prompt else prompt


def scene_prompt(prompt: str, *, cast: Mapping[str, str], setting: str | None) -> str:
    """Return the model's prompt of a scene: `Snowfield at dusk. Actor1 (round red body, wool cap) waves.`"""
    if not setting:
        return expand_prompt(prompt, cast)
    opening = setting[0].upper() + setting[1:]
    stop = "" if opening.endswith((".", "!", "?")) else "."
    return expand_prompt(f"{opening}{stop} {prompt}", cast)


def unknown_actors(text: str, cast: Mapping[str, str]) -> list[str]:
    """Return each `ActorN` in `text` that is not in the cast, once; `actor1` is not `Actor1`."""
    return list(dict.fromkeys(name for name in _ACTOR_NUMBER.findall(text) if name not in cast))


def described_actors(texts: Sequence[str]) -> dict[str, str]:
    """Return the descriptions in texts such as `Actor3 (tall green body) waves.`; the first text counts."""
    return {name: text for each in reversed(texts) for name, text in _DESCRIBED.findall(each)}


def other_brackets(text: str, cast: Mapping[str, str]) -> list[str]:
    """Return the actors that are followed by brackets with other text than their description."""
    found = [
        mention.name
        for mention in find_mentions(text, cast)
        if mention.described_stop == mention.stop and text[mention.stop :].lstrip().startswith("(")
    ]
    return list(dict.fromkeys(found))


def respell_actors(text: str, cast: Mapping[str, str]) -> str:
    """Replace `actor1` and `ACTOR1` by the cast's spelling."""
    spelling = {name.lower(): name for name in cast}
    return _ACTOR_NUMBER.sub(lambda match: spelling.get(match.group().lower(), match.group()), text)
