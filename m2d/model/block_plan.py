"""What a transformer block does for one layout: how its tokens are cut, and which attention calls join them.

Owns the way from token spans to segments; who may attend to whom is decided in `m2d.layout`.
"""

# B batch, N scenes, S tokens of a segment, D width

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from m2d.layout import SceneLayout, Span, merged
from m2d.model.scene_lora import RowLoras, SceneLoras, row_loras


class SegmentCall(NamedTuple):
    """One attention call: every token of the query segments sees every token of the key segments.

    Attributes:
        queries: Positions among the segments that have queries, ascending.
        keys: Positions among all segments, ascending.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlan:
    """The cuts and calls of a block.

    Attributes:
        text_sizes: Tokens of each text segment, one per scene.
        video_sizes: Tokens of each video segment; `anchor` has two per scene, other masks one.
        video_tokens: Tokens of each scene's video.
        query_text_sizes: Tokens of the text segments that have queries: of all, or of none.
        query_video_sizes: Tokens of the video segments that have queries.
        calls: Calls that together serve every query exactly once.
        targets: Scenes whose video tokens alone have queries; None when every token has.
        target_tokens: Tokens of each target scene's video; of every scene when `targets` is None.
        target_spans: Their positions among all video tokens, merged where adjacent.
        loras: LoRAs of each scene's own; empty without any.
    """

    text_sizes: tuple[int, ...]
    video_sizes: tuple[int, ...]
    video_tokens: tuple[int, ...]
    query_text_sizes: tuple[int, ...]
    query_video_sizes: tuple[int, ...]
    calls: tuple[SegmentCall, ...]
    targets: tuple[int, ...] | None
    target_tokens: tuple[int, ...]
    target_spans: tuple[Span, ...]
    loras: SceneLoras = ()

    @property
    def text_loras(self) -> RowLoras:
        """LoRAs of the text tokens."""
        return row_loras(self.loras, self.text_sizes)

    @property
    def video_loras(self) -> RowLoras:
        """LoRAs of the video tokens, a group for each scene."""
        return row_loras(self.loras, self.video_tokens)

    @property
    def target_loras(self) -> RowLoras:
        """LoRAs of the target scenes' video tokens, a group for each scene."""
        return row_loras(self._target_loras, self.target_tokens)

    @property
    def query_loras(self) -> RowLoras:
        """LoRAs of the tokens that have queries."""
        return self.text_loras + self.video_loras if self.targets is None else self.target_loras

    @property
    def scene_loras(self) -> RowLoras:
        """LoRAs of a tensor that has a row per scene."""
        return row_loras(self.loras, [1] * len(self.loras))

    @property
    def target_scene_loras(self) -> RowLoras:
        """LoRAs of a tensor that has a row per target scene."""
        return row_loras(self._target_loras, [1] * len(self._target_loras))

    @property
    def _target_loras(self) -> SceneLoras:
        if self.targets is None or not self.loras:
            return self.loras
        return tuple(self.loras[scene] for scene in self.targets)

    def target_rows(self, rows: Tensor, *, dim: int = 1) -> Tensor:
        """Return the target scenes' rows of a tensor that has a row per video token."""
        if sum(self.target_tokens) == rows.shape[dim]:
            return rows
        return pick(rows, self.target_spans, dim=dim)

    def target_scenes(self, values_BND: Tensor) -> Tensor:
        """Return the target scenes' rows of a tensor that has a row per scene."""
        if self.targets is None or len(self.targets) == values_BND.shape[1]:
            return values_BND
        return torch.cat([values_BND[:, scene : scene + 1] for scene in self.targets], dim=1)


class Rows(NamedTuple):
    """What a transformer computes with: the tokens of a whole story, or those of some of its scenes."""

    text_BTD: Tensor
    video_BVD: Tensor
    temb_BNE: Tensor
    rotary_VR2: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScenesPlan:
    """How some scenes run, given the keys and values of the others.

    Attributes:
        layout: The whole story.
        scenes: The scenes that run, ascending.
        others: Segments, by their place in the layout, whose keys and values follow the running scenes' own.
        plan: Plan of all blocks but the last; its scenes are `scenes`, counted from 0.
        last_plan: Plan of the last block, which computes the targets alone.
        loras: LoRAs of each scene of the story; empty without any.
    """

    layout: SceneLayout
    scenes: tuple[int, ...]
    others: tuple[int, ...]
    plan: BlockPlan
    last_plan: BlockPlan
    loras: SceneLoras = ()

    @property
    def text_loras(self) -> RowLoras:
        """LoRAs of the whole story's text tokens."""
        return row_loras(self.loras, [len(self.layout.text_span(scene)) for scene in range(len(self.loras))])

    @property
    def scene_loras(self) -> RowLoras:
        """LoRAs of a tensor that has a row per scene of the story."""
        return row_loras(self.loras, [1] * len(self.loras))

    def pick(self, rows: Rows) -> Rows:
        """Return the running scenes' rows of the whole story's."""
        layout = self.layout
        if len(self.scenes) == layout.num_scenes:
            return rows
        texts = [layout.text_span(scene) for scene in self.scenes]
        begin = layout.num_text_tokens
        spans = [layout.video_span(scene) for scene in self.scenes]
        videos = [Span(span.start - begin, span.stop - begin) for span in spans]
        return Rows(
            text_BTD=pick(rows.text_BTD, texts),
            video_BVD=pick(rows.video_BVD, videos),
            temb_BNE=pick(rows.temb_BNE, [Span(scene, scene + 1) for scene in self.scenes]),
            rotary_VR2=None if rows.rotary_VR2 is None else pick(rows.rotary_VR2, videos, dim=0),
        )


class BlockContext(Protocol):
    """Keys and values from outside the tokens at hand; see `m2d.model.context_cache`."""

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Take the segments at hand, BSNK each, keys rotated; return all that the plan's calls count."""


@lru_cache(maxsize=64)
def scenes_plan(
    layout: SceneLayout,
    scenes: tuple[int, ...] | None = None,
    targets: tuple[int, ...] | None = None,
    loras: SceneLoras = (),
) -> ScenesPlan:
    """Plan the run of some scenes.

    Args:
        scenes: The scenes that run, ascending; None for all. Every segment of another scene that they see is
            expected as keys and values.
        targets: The scenes among them whose output is wanted, ascending; None for all.
        loras: LoRAs of each scene of the story; empty without any.

    Raises:
        ValueError: A target that does not run, no target, or targets out of order.
    """
    scenes = tuple(range(layout.num_scenes)) if scenes is None else scenes
    targets = scenes if targets is None else targets
    if not targets or list(targets) != sorted(set(targets)) or not set(targets) <= set(scenes):
        raise ValueError(f"targets {list(targets)}: give one or more of {list(scenes)}, in ascending order")
    own = [index for index, segment in enumerate(layout.segments) if segment.scene in scenes]
    seen = {int(key) for index in own for key in layout.may_attend[index].nonzero()[0]}
    others = tuple(sorted(seen - set(own)))
    place = {index: position for position, index in enumerate((*own, *others))}
    return ScenesPlan(
        layout=layout,
        scenes=scenes,
        others=others,
        plan=_block_plan(layout, scenes, place, targets=None, loras=loras),
        # Also with all scenes: the last block's text rows reach no output.
        last_plan=_block_plan(layout, scenes, place, targets=targets, loras=loras),
        loras=loras,
    )


def _block_plan(
    layout: SceneLayout,
    scenes: tuple[int, ...],
    place: dict[int, int],
    *,
    targets: tuple[int, ...] | None,
    loras: SceneLoras,
) -> BlockPlan:
    """Plan one block: keys are counted by `place`, queries and scenes among `scenes`."""
    segments = layout.segments
    own = [index for index, segment in enumerate(segments) if segment.scene in scenes]
    queried = [
        index
        for index in own
        if targets is None or (segments[index].kind == "video" and segments[index].scene in targets)
    ]
    texts = tuple(len(segments[i].span) for i in own if segments[i].kind == "text")
    video_tokens = tuple(len(layout.video_span(scene)) for scene in scenes)
    targeted = scenes if targets is None else targets
    return BlockPlan(
        text_sizes=texts,
        video_sizes=tuple(len(segments[i].span) for i in own if segments[i].kind == "video"),
        video_tokens=video_tokens,
        query_text_sizes=texts if targets is None else (),
        query_video_sizes=tuple(len(segments[i].span) for i in queried if segments[i].kind == "video"),
        calls=_calls(layout, queried, place),
        targets=None if targets is None else tuple(scenes.index(scene) for scene in targets),
        target_tokens=tuple(len(layout.video_span(scene)) for scene in targeted),
        target_spans=merged(
            span for scene, span in zip(scenes, spans_of(video_tokens), strict=True) if scene in targeted
        ),
        loras=tuple(loras[scene] for scene in scenes) if loras else (),
    )


def _calls(layout: SceneLayout, queried: Sequence[int], place: dict[int, int]) -> tuple[SegmentCall, ...]:
    """Group queries that have the same keys into one call."""
    queries_of: dict[tuple[int, ...], list[int]] = {}
    for position, index in enumerate(queried):
        keys = tuple(sorted(place[int(key)] for key in layout.may_attend[index].nonzero()[0]))
        queries_of.setdefault(keys, []).append(position)
    return tuple(SegmentCall(queries=tuple(queries), keys=keys) for keys, queries in queries_of.items())


def spans_of(lengths: Sequence[int]) -> list[Span]:
    """Return the spans of parts that lie one after the other."""
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    return [Span(end - length, end) for end, length in zip(ends, lengths, strict=True)]


def join(pieces: Sequence[Tensor], *, dim: int = 1) -> Tensor:
    """Concatenate pieces; a single one is returned as it is."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=dim)


def pick(rows: Tensor, spans: Sequence[Span], *, dim: int = 1) -> Tensor:
    """Return the rows of some spans, concatenated."""
    return join([rows.narrow(dim, span.start, len(span)) for span in spans], dim=dim)
