"""The eight attention masks: for two segments of a story, whether the one may attend to the other.

Owns the rules and the words they are stated in; does not know how long anything is.

`isolated` and `mask2dit` are the first two configurations of Mask2DiT's Figure 2 (arXiv 2503.19881).
`shared-text`, `cross-text` and `full` are its right group, read from the caption alone ("The three rightmost
configurations are further explored to capture additional inter-token correlations"): the picture was not at
hand, so these three may differ from what the paper drew. `causal`, `window:k` and `anchor` are our own.

n scenes, numbered from 0; `T_i` and `V_i` are the text and the video tokens of scene i.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from m2d.errors import InputError

MASKS = ("isolated", "mask2dit", "shared-text", "cross-text", "full", "causal", "window:k", "anchor")
"""The masks' names; `window:k` stands for `window:1`, `window:2` and so on."""

_WINDOW = re.compile(r"window:([1-9][0-9]{0,5})", re.ASCII)

Rule = Callable[["Segment", "Segment"], bool]
"""Given the query's and the key's segment: may the query attend to the key?"""


class LayoutError(InputError):
    """A mask nobody knows, or scene lengths no layout can have."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Positions `start` to `stop - 1` of an axis (tokens, or latent frames)."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def as_slice(self) -> slice:
        """The span for indexing."""
        return slice(self.start, self.stop)


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A run of tokens that share one row and one column of the matrix.

    Attributes:
        scene: Scene number, from 0.
        kind: Prompt tokens or latent tokens.
        part: `all` of the scene's tokens of that kind; where the mask tells them apart, the `first` latent
            frame and the `rest`.
        start: First token position.
        stop: Token position after the last.
    """

    scene: int
    kind: Literal["text", "video"]
    part: Literal["all", "first", "rest"]
    start: int
    stop: int

    @property
    def span(self) -> Span:
        """The token positions."""
        return Span(self.start, self.stop)

    @property
    def label(self) -> str:
        """A short name, scenes counted from 1: `T1`, `V2`, or `V2f` and `V2r` for first frame and rest."""
        suffix = "" if self.part == "all" else self.part[0]
        return f"{self.kind[0].upper()}{self.scene + 1}{suffix}"


def _isolated(query: Segment, key: Segment) -> bool:
    """Scenes know nothing of each other: the baseline of Figure 2."""
    return query.scene == key.scene


def _mask2dit(query: Segment, key: Segment) -> bool:
    """Each text is tied to its own scene, all videos see each other: Figure 2's second configuration."""
    return query.scene == key.scene or query.kind == key.kind == "video"


def _shared_text(query: Segment, key: Segment) -> bool:
    """`mask2dit`, and all texts see each other (read from Figure 2's caption)."""
    return query.scene == key.scene or query.kind == key.kind


def _cross_text(query: Segment, key: Segment) -> bool:
    """Only texts of different scenes are kept apart (read from Figure 2's caption)."""
    return query.scene == key.scene or "video" in (query.kind, key.kind)


def _full(_query: Segment, _key: Segment) -> bool:
    """No mask (read from Figure 2's caption)."""
    return True


def _causal(query: Segment, key: Segment) -> bool:
    """`mask2dit`, but a video sees no later scene: what is earlier can be computed once and kept."""
    return query.scene == key.scene or (query.kind == key.kind == "video" and key.scene < query.scene)


def _window(size: int) -> Rule:
    """`causal`, but a video sees only its own scene and the `size - 1` before it: linear cost in n."""

    def sees(query: Segment, key: Segment) -> bool:
        return _causal(query, key) and query.scene - size < key.scene

    return sees


def _anchor(query: Segment, key: Segment) -> bool:
    """Of every other scene, a video sees the first latent frame only."""
    is_anchor = query.kind == key.kind == "video" and key.part == "first"
    return query.scene == key.scene or is_anchor


_RULES: dict[str, Rule] = {
    "isolated": _isolated,
    "mask2dit": _mask2dit,
    "shared-text": _shared_text,
    "cross-text": _cross_text,
    "full": _full,
    "causal": _causal,
    "anchor": _anchor,
}


def rule_of(mask: str) -> Rule:
    """Find the rule of a mask.

    Args:
        mask: One of `MASKS`, with a number for k.

    Raises:
        LayoutError: No such mask.
    """
    window = _WINDOW.fullmatch(mask)
    if window:
        return _window(int(window[1]))
    if mask not in _RULES:
        raise LayoutError(
            f"mask: {mask!r} is not known; use one of {', '.join(MASKS)} (k from 1, such as window:2)"
        )
    return _RULES[mask]
