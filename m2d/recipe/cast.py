"""The cast of a story inside its prompts: every mention of an actor carries the actor's description.

Mask2DiT's prompts repeat `Actor1 (round red body, wool cap)` verbatim in every scene (paper, Figure 5): a
scene's text is all that its own frames may read. Owns finding, expanding and shortening mentions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

_ACTOR_NUMBER = re.compile(r"(?<!\w)actor[0-9]+(?!\w)", re.IGNORECASE)


class Mention(NamedTuple):
    """One actor's name in a text.

    Attributes:
        name: As the cast spells it.
        start: Offset of the name.
        stop: Offset after the name.
        described_stop: Offset after the actor's description in brackets; `stop` when it does not follow.
    """

    name: str
    start: int
    stop: int
    described_stop: int


def find_mentions(text: str, cast: Mapping[str, str]) -> list[Mention]:
    """Return where `text` names an actor, in order; names inside a description belong to that description."""
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
    """Put the description in brackets behind every mention that lacks it.

    Expanding twice changes nothing more.
    """
    pieces, position = [], 0
    for mention in find_mentions(prompt, cast):
        pieces.append(prompt[position : mention.described_stop])
        if mention.described_stop == mention.stop:
            pieces.append(f" ({cast[mention.name]})")
        position = mention.described_stop
    return "".join(pieces) + prompt[position:]


def shorten_prompt(prompt: str, cast: Mapping[str, str]) -> str:
    """Take the descriptions away again, if expanding the result gives back exactly `prompt`."""
    pieces, position = [], 0
    for mention in find_mentions(prompt, cast):
        pieces.append(prompt[position : mention.stop])
        position = mention.described_stop
    shortened = "".join(pieces) + prompt[position:]
    return shortened if expand_prompt(shortened, cast) == prompt else prompt


def scene_prompt(prompt: str, *, cast: Mapping[str, str], setting: str | None) -> str:
    """Return what a model reads for a scene: `Snowfield at dusk. Actor1 (round red body, wool cap) waves.`"""
    if not setting:
        return expand_prompt(prompt, cast)
    opening = setting[0].upper() + setting[1:]
    stop = "" if opening.endswith((".", "!", "?")) else "."
    return expand_prompt(f"{opening}{stop} {prompt}", cast)


def unknown_actors(text: str, cast: Mapping[str, str]) -> list[str]:
    """Return the `ActorN` of a text that the cast does not have, each once; `actor1` is not `Actor1`."""
    return list(dict.fromkeys(name for name in _ACTOR_NUMBER.findall(text) if name not in cast))


def other_brackets(text: str, cast: Mapping[str, str]) -> list[str]:
    """Return the actors that are followed by brackets holding something else than their description."""
    found = [
        mention.name
        for mention in find_mentions(text, cast)
        if mention.described_stop == mention.stop and text[mention.stop :].lstrip().startswith("(")
    ]
    return list(dict.fromkeys(found))


def respell_actors(text: str, cast: Mapping[str, str]) -> str:
    """Spell `actor1` and `ACTOR1` as the cast does."""
    spelling = {name.lower(): name for name in cast}
    return _ACTOR_NUMBER.sub(lambda match: spelling.get(match.group().lower(), match.group()), text)
