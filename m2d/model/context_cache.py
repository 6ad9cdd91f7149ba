"""Clean context scenes computed once: their keys and values in every block, for all steps of a film.

Owns which scenes may be kept so, and the plans of a transformer that runs without them. A scene may be kept
when nothing it sees, directly or through others, is denoised: with `causal` and `window:k` that is every
context scene before the targets. Such a scene's tokens are the same in every step, and so are the keys and
values that later scenes read of it; leaving its own rows out changes nothing in the targets' output.
"""

# B batch, N scenes or heads, F latent frames, C latent channels, H W latent size, L text tokens,
# S tokens of a segment, T text tokens, V video tokens, D width, E width of the timestep embedding,
# K head dim.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from m2d.layout import SceneLayout, Span
from m2d.model.attention import BlockContext, BlockPlan, SegmentCall

if TYPE_CHECKING:
    from m2d.model.transformer import SceneTransformer


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSplit:
    """Which scenes are computed when; scenes in neither are seen by no target and never computed.

    Attributes:
        kept: Computed once, ascending.
        run: Computed in every step, ascending: the targets, and context that depends on them.
    """

    kept: tuple[int, ...]
    run: tuple[int, ...]


@lru_cache(maxsize=64)
def split_context(layout: SceneLayout, targets: tuple[int, ...]) -> ContextSplit:
    """Divide a story's scenes for the denoising of `targets`.

    Raises:
        ValueError: No target, or one that is not in the story.
    """
    scenes = range(layout.num_scenes)
    if not targets or not set(targets) <= set(scenes):
        raise ValueError(f"targets {list(targets)}: give one or more of 0 to {layout.num_scenes - 1}")
    sees = {scene: _seen_by(layout, scene) for scene in scenes}
    depends = _closure(set(targets), {scene: {s for s in scenes if scene in sees[s]} for scene in scenes})
    needed = _closure(set(targets), sees)
    return ContextSplit(kept=tuple(sorted(needed - depends)), run=tuple(sorted(needed & depends)))


class Rows(NamedTuple):
    """What a transformer computes with: all of a story's tokens, or some scenes' alone."""

    text_BTD: Tensor
    video_BVD: Tensor
    temb_BNE: Tensor
    rotary_VR2: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialPlan:
    """How some scenes run without the others, whose keys and values are at hand.

    Attributes:
        layout: The whole story.
        scenes: The scenes that run, ascending.
        others: Segments, by their place in the layout, whose keys and values follow the running scenes' own.
        plan: Of all blocks but the last; its scenes are `scenes`, counted from 0.
        last_plan: Of the last block.
    """

    layout: SceneLayout
    scenes: tuple[int, ...]
    others: tuple[int, ...]
    plan: BlockPlan
    last_plan: BlockPlan

    def pick(self, rows: Rows) -> Rows:
        """Keep the running scenes' rows of the whole story's."""
        layout = self.layout
        texts = [layout.text_span(scene) for scene in self.scenes]
        begin = layout.num_text_tokens
        spans = [layout.video_span(scene) for scene in self.scenes]
        videos = [Span(span.start - begin, span.stop - begin) for span in spans]
        return Rows(
            text_BTD=_pick(rows.text_BTD, texts, dim=1),
            video_BVD=_pick(rows.video_BVD, videos, dim=1),
            temb_BNE=_pick(rows.temb_BNE, [Span(scene, scene + 1) for scene in self.scenes], dim=1),
            rotary_VR2=None if rows.rotary_VR2 is None else _pick(rows.rotary_VR2, videos, dim=0),
        )


@lru_cache(maxsize=64)
def partial_plan(layout: SceneLayout, scenes: tuple[int, ...], targets: tuple[int, ...]) -> PartialPlan:
    """Plan the run of `scenes`, of which `targets` alone have an output.

    Every segment that they see and that is of another scene is expected as keys and values.
    """
    own = [index for index, segment in enumerate(layout.segments) if segment.scene in scenes]
    seen = {int(key) for index in own for key in layout.may_attend[index].nonzero()[0]}
    others = tuple(sorted(seen - set(own)))
    place = {index: position for position, index in enumerate((*own, *others))}
    return PartialPlan(
        layout=layout,
        scenes=scenes,
        others=others,
        plan=_block_plan(layout, scenes, place, targets=None),
        last_plan=_block_plan(layout, scenes, place, targets=targets),
    )


@dataclass(kw_only=True, slots=True)
class KeptBlock:
    """Keys and values of the kept scenes in one block, a pair per segment that later scenes see."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Put the kept segments behind the running scenes' own."""
        return (*keys, *self.keys), (*values, *self.values)


@dataclass(kw_only=True, slots=True)
class RecordingBlock:
    """Keeps some of the segments that pass by.

    Attributes:
        wanted: Their places among the running scenes' segments.
    """

    wanted: tuple[int, ...]
    kept: KeptBlock | None = None

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Keep, and change nothing."""
        # Copies: a segment is a view that would hold the whole story's keys in memory.
        self.kept = KeptBlock(
            keys=tuple(keys[place].clone() for place in self.wanted),
            values=tuple(values[place].clone() for place in self.wanted),
        )
        return keys, values


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCache:
    """What `SceneTransformer.forward` takes as `context`: some scenes run, the others' work is done.

    Attributes:
        part: The scenes that run, and their plans.
        blocks: One per block.
    """

    part: PartialPlan
    blocks: tuple[BlockContext, ...]

    @property
    def batch_size(self) -> int | None:
        """Of the prompts that it was kept for; None when nothing is kept."""
        kept = self.blocks[0].keys if isinstance(self.blocks[0], KeptBlock) else ()
        return kept[0].shape[0] if kept else None

    @property
    def size_bytes(self) -> int:
        """Memory of what is kept."""
        kept = [block for block in self.blocks if isinstance(block, KeptBlock)]
        return sum(part.nbytes for block in kept for part in (*block.keys, *block.values))


def keep_context(
    transformer: SceneTransformer,
    latents_BFCHW: Tensor,
    prompt_embeds_BLD: Tensor,
    *,
    layout: SceneLayout,
    targets: tuple[int, ...],
) -> ContextCache | None:
    """Run the context scenes that no step changes, once.

    Args:
        transformer: The model.
        latents_BFCHW: All scenes' latents; only those of kept scenes are read.
        prompt_embeds_BLD: All scenes' prompts, with the batch of the steps to come: with guidance, both
            branches' together or a cache for each.
        layout: The story.
        targets: The scenes that are denoised, ascending.

    Returns:
        The cache for `forward(..., context=)`; None when every scene has to run in every step.
    """
    split = split_context(layout, targets)
    if len(split.run) == layout.num_scenes:
        return None
    part = partial_plan(layout, split.run, targets)
    num_blocks = len(transformer.transformer_blocks)
    if not part.others:
        return ContextCache(part=part, blocks=(KeptBlock(keys=(), values=()),) * num_blocks)
    before = partial_plan(layout, split.kept, split.kept)
    own = [index for index, segment in enumerate(layout.segments) if segment.scene in split.kept]
    wanted = tuple(own.index(segment) for segment in part.others)
    recording = [RecordingBlock(wanted=wanted) for _ in range(num_blocks)]
    timesteps_BN = torch.zeros(
        len(latents_BFCHW), layout.num_scenes, dtype=torch.long, device=latents_BFCHW.device
    )
    transformer(
        latents_BFCHW,
        prompt_embeds_BLD,
        timesteps_BN,
        layout=layout,
        context=ContextCache(part=before, blocks=tuple(recording)),
    )
    return ContextCache(part=part, blocks=tuple(block.kept for block in recording if block.kept is not None))


def _seen_by(layout: SceneLayout, scene: int) -> set[int]:
    """The scenes of which any segment of `scene` sees a segment."""
    segments = layout.segments
    own = [index for index, segment in enumerate(segments) if segment.scene == scene]
    return {segments[int(key)].scene for index in own for key in layout.may_attend[index].nonzero()[0]}


def _closure(scenes: set[int], leads_to: dict[int, set[int]]) -> set[int]:
    reached = set(scenes)
    while more := {next_ for scene in reached for next_ in leads_to[scene]} - reached:
        reached |= more
    return reached


def _block_plan(
    layout: SceneLayout, scenes: tuple[int, ...], place: dict[int, int], *, targets: tuple[int, ...] | None
) -> BlockPlan:
    """The plan of one block: keys are counted by `place`, queries and scenes among `scenes`."""
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
        target_spans=_spans_of([scene in targeted for scene in scenes], video_tokens),
    )


def _calls(layout: SceneLayout, queried: Sequence[int], place: dict[int, int]) -> tuple[SegmentCall, ...]:
    """Queries with the same keys share a call."""
    queries_of: dict[tuple[int, ...], list[int]] = {}
    for position, index in enumerate(queried):
        keys = tuple(sorted(place[int(key)] for key in layout.may_attend[index].nonzero()[0]))
        queries_of.setdefault(keys, []).append(position)
    return tuple(SegmentCall(queries=tuple(queries), keys=keys) for keys, queries in queries_of.items())


def _spans_of(is_wanted: Sequence[bool], lengths: Sequence[int]) -> tuple[Span, ...]:
    """Where the wanted parts lie among all, merged where adjacent."""
    spans: list[Span] = []
    start = 0
    for wanted, length in zip(is_wanted, lengths, strict=True):
        if wanted and spans and spans[-1].stop == start:
            spans[-1] = Span(spans[-1].start, start + length)
        elif wanted:
            spans.append(Span(start, start + length))
        start += length
    return tuple(spans)


def _pick(x: Tensor, spans: Sequence[Span], *, dim: int) -> Tensor:
    pieces = [x.narrow(dim, span.start, len(span)) for span in spans]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=dim)
