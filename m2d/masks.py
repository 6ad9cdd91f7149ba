"""The nine attention masks: which segments of a story each has, and which of them may attend to which.

Owns the rules and the terms in which they are stated; does not know the lengths of segments.

`isolated` and `mask2dit` are the first two configurations of Mask2DiT's Figure 2 (arXiv 2503.19881).
`shared-text`, `cross-text` and `full` are its right group, read from the caption alone ("The three rightmost
configurations are further explored to capture additional inter-token correlations"), without the picture,
so these three may differ from the paper's. `causal`, `window:k` and `anchor` are our own. `talc` is the
attention of TALC (Bansal et al., 2024), which gives every scene's frames the scene's own caption in a U-Net's
cross-attention: text there never sees video.

There are n scenes, numbered from 0; `T_i` and `V_i` are the text and the video tokens of scene i.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from m2d.errors import InputError

MASKS = ("isolated", "mask2dit", "shared-text", "cross-text", "full", "causal", "window:k", "anchor", "talc")
"""Names of the masks; `window:k` stands for `window:1`, `window:2` and so on."""

_WINDOW = re.compile(r"window:([1-9][0-9]{0,5})", re.ASCII)


class LayoutError(InputError):
    """An unknown mask, or impossible scene lengths."""


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
    """Consecutive tokens that share one row and one column of the matrix.

    Attributes:
        scene: Scene number, from 0.
        kind: Prompt tokens or latent tokens.
        part: `all` of the scene's tokens of that kind; with a mask that splits videos, the `first` latent
            frame or the `rest`.
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
        """Short name, scenes counted from 1: `T1`, `V2`, or `V2f` and `V2r` for first frame and rest."""
        suffix = "" if self.part == "all" else self.part[0]
        return f"{self.kind[0].upper()}{self.scene + 1}{suffix}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRule:
    """What defines a mask.

    Attributes:
        may_attend: Whether tokens of the first segment (query) may attend to tokens of the second (key).
        splits_videos: Whether a video has two segments, its first latent frame and the rest, instead of one.
    """

    may_attend: Callable[[Segment, Segment], bool]
    splits_videos: bool = False


def _isolated(query: Segment, key: Segment) -> bool:
    """A token sees its own scene only: the baseline of Figure 2."""
    return query.scene == key.scene


def _mask2dit(query: Segment, key: Segment) -> bool:
    """Texts see their own scene, videos also all other videos: Figure 2's second configuration."""
    return query.scene == key.scene or query.kind == key.kind == "video"


def _shared_text(query: Segment, key: Segment) -> bool:
    """`mask2dit`, and all texts see each other (read from Figure 2's caption)."""
    return query.scene == key.scene or query.kind == key.kind


def _cross_text(query: Segment, key: Segment) -> bool:
    """Everything but texts of different scenes see each other (read from Figure 2's caption)."""
    return query.scene == key.scene or "video" in (query.kind, key.kind)


def _full(_query: Segment, _key: Segment) -> bool:
    """No mask (read from Figure 2's caption)."""
    return True


def _causal(query: Segment, key: Segment) -> bool:
    """`mask2dit`, but a video sees no later scene, so that earlier scenes can be computed once and kept."""
    return query.scene == key.scene or (query.kind == key.kind == "video" and key.scene < query.scene)


def _window(size: int, query: Segment, key: Segment) -> bool:
    """`causal`, but a video sees only its own scene and the `size - 1` before it: linear cost in n."""
    return _causal(query, key) and query.scene - size < key.scene


def _anchor(query: Segment, key: Segment) -> bool:
    """Every token sees its own scene, videos also the first latent frame of every other scene."""
    is_anchor = query.kind == key.kind == "video" and key.part == "first"
    return query.scene == key.scene or is_anchor


def _talc(query: Segment, key: Segment) -> bool:
    """Videos see as with `mask2dit`; a text sees itself alone, as in a U-Net's cross-attention."""
    return _mask2dit(query, key) and not (query.kind == "text" and key.kind == "video")


_RULES: dict[str, MaskRule] = {
    "isolated": MaskRule(may_attend=_isolated),
    "mask2dit": MaskRule(may_attend=_mask2dit),
    "shared-text": MaskRule(may_attend=_shared_text),
    "cross-text": MaskRule(may_attend=_cross_text),
    "full": MaskRule(may_attend=_full),
    "causal": MaskRule(may_attend=_causal),
    "anchor": MaskRule(may_attend=_anchor, splits_videos=True),
    "talc": MaskRule(may_attend=_talc),
}


def rule_of(mask: str) -> MaskRule:
    """Find the rule of a mask.

    Args:
        mask: One of `MASKS`, with a number for k.

    Raises:
        LayoutError: The mask is unknown.
    """
    if window := _WINDOW.fullmatch(mask):
        return MaskRule(may_attend=partial(_window, int(window[1])))
    if mask not in _RULES:
        raise LayoutError(
            f"mask: {mask!r} is not known; use one of {', '.join(MASKS)} (k from 1, such as window:2)"
        )
    return _RULES[mask]
