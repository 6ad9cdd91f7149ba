"""Runs a layout's plan: attention between segments as plain calls that need no mask.

Owns the order in which queries, keys and values are cut and joined (strategy "cat": the keys of each call are
concatenated). Who may attend to whom is decided in `m2d.layout` alone.
"""

# B batch, L tokens, T text tokens, V video tokens, Q query tokens, D width, N heads, K head dim, R = K/2.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.attention import SDPBackend

from m2d.layout import SceneLayout, Segment, Span
from m2d.model import kernels
from m2d.model.rotary import apply_rotary


@dataclass(frozen=True, slots=True)
class SegmentCall:
    """One attention call: every token of the query segments sees every token of the key segments.

    Attributes:
        queries: Positions among the segments that have queries, ascending.
        keys: Positions among all segments, ascending.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockPlan:
    """What a transformer block does for one layout: how its tokens are cut and which calls join them.

    Attributes:
        text_sizes: Tokens of each text segment, one per scene.
        video_sizes: Tokens of each video segment; `anchor` has two per scene, other masks one.
        video_tokens: Tokens of each scene's video.
        query_text_sizes: Tokens of the text segments that have queries: of all, or of none.
        query_video_sizes: Tokens of the video segments that have queries.
        calls: Calls that together serve every query exactly once.
        targets: Scenes whose video tokens alone have queries; None when every token has.
        target_tokens: Tokens of each target scene's video; of every scene when `targets` is None.
        target_spans: Where these lie among all video tokens, merged where adjacent.
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

    def target_rows(self, rows: Tensor, *, dim: int = 1) -> Tensor:
        """Keep what belongs to the target scenes' video tokens of a tensor that has a row per video token."""
        if sum(self.target_tokens) == rows.shape[dim]:
            return rows
        pieces = [rows.narrow(dim, span.start, len(span)) for span in self.target_spans]
        return _join(pieces, dim=dim)

    def target_scenes(self, values_BND: Tensor) -> Tensor:
        """Keep what belongs to the target scenes of a tensor that has a row per scene."""
        if self.targets is None or len(self.targets) == values_BND.shape[1]:
            return values_BND
        return torch.cat([values_BND[:, scene : scene + 1] for scene in self.targets], dim=1)


@lru_cache(maxsize=64)
def block_plan(layout: SceneLayout, targets: tuple[int, ...] | None = None) -> BlockPlan:
    """Translate a layout's plan from token spans to segments.

    Args:
        layout: The story.
        targets: Plan for these scenes' video queries alone (the last block), ascending; None for all tokens.

    Raises:
        ValueError: A target that is not in the story, none, or targets out of order.
    """
    if targets is not None and list(targets) != sorted(set(targets)):
        raise ValueError(f"targets {list(targets)}: name each scene once, in ascending order")
    segments = layout.segments
    kept = tuple(range(layout.num_scenes)) if targets is None else targets
    plan = layout.plan() if targets is None else layout.plan_for(kept)
    queried = [
        index
        for index, segment in enumerate(segments)
        if targets is None or (segment.kind == "video" and segment.scene in targets)
    ]
    texts = tuple(len(segment.span) for segment in segments if segment.kind == "text")
    videos = tuple(len(segment.span) for segment in segments if segment.kind == "video")
    place = {index: position for position, index in enumerate(queried)}
    num_text = layout.num_text_tokens
    return BlockPlan(
        text_sizes=texts,
        video_sizes=videos,
        video_tokens=tuple(len(layout.video_span(scene)) for scene in range(layout.num_scenes)),
        query_text_sizes=texts if targets is None else (),
        query_video_sizes=tuple(len(segments[i].span) for i in queried if segments[i].kind == "video"),
        calls=tuple(
            SegmentCall(
                queries=tuple(place[index] for index in _segments_in(call.queries, segments)),
                keys=tuple(_segments_in(call.keys, segments)),
            )
            for call in plan
        ),
        targets=targets,
        target_tokens=tuple(len(layout.video_span(scene)) for scene in kept),
        target_spans=tuple(
            Span(span.start - num_text, span.stop - num_text) for span in layout.target_spans(kept)
        ),
    )


class BlockContext(Protocol):
    """Keys and values from outside the tokens at hand; see `m2d.model.context_cache`."""

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Take the segments at hand, BSNK each, keys rotated; return all that the plan's calls count."""


class SceneAttnProcessor:
    """Attention of one block over `[text | video]` tokens, following a `BlockPlan`."""

    # What diffusers' `set_attention_backend` sets. Named, so that no environment variable chooses the kernel.
    _attention_backend: AttentionBackendName | None = AttentionBackendName.NATIVE
    _parallel_config = None
    # One of torch's own kernels, and no other; None leaves the choice to torch.
    kernel: SDPBackend | None = None
    # How queries and keys are rotated; an export may put an operator of its graph's in its place.
    rotate: Callable[[Tensor, Tensor], Tensor] = staticmethod(apply_rotary)

    def __call__(
        self,
        attn: Attention,
        tokens_BLD: Tensor,
        *,
        plan: BlockPlan,
        rotary_VR2: Tensor | None,
        context: BlockContext | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            attn: The block's projections and norms.
            tokens_BLD: All tokens, normalized.
            plan: Queries, keys and calls.
            rotary_VR2: Table of all video tokens, or None.
            context: More keys and values, whose segments the plan counts after those of the tokens.

        Returns:
            A row per query, (B, Q, D): all tokens, or the target scenes' video tokens.
        """
        queried_BQD, query_rotary = tokens_BLD, rotary_VR2
        if plan.targets is not None:
            queried_BQD = plan.target_rows(tokens_BLD[:, sum(plan.text_sizes) :])
            query_rotary = None if rotary_VR2 is None else plan.target_rows(rotary_VR2, dim=0)

        if queried_BQD is tokens_BLD:
            q_BQNK, k_BLNK, v_BLNK = project(attn, tokens_BLD, has_queries=True)
            assert q_BQNK is not None
        else:
            _, k_BLNK, v_BLNK = project(attn, tokens_BLD, has_queries=False)
            q_BQNK = _split_heads(attn, attn.to_q(queried_BQD), norm=attn.norm_q)

        queries = self._cut(q_BQNK, plan.query_text_sizes, plan.query_video_sizes, query_rotary)
        keys: Sequence[Tensor] = self._cut(k_BLNK, plan.text_sizes, plan.video_sizes, rotary_VR2)
        values: Sequence[Tensor] = self._cut(v_BLNK, plan.text_sizes, plan.video_sizes, None)
        if context is not None:
            keys, values = context.join(keys, values)
        attended_BQNK = self._run(plan, queries, keys, values)
        hidden_BQD: Tensor = attn.to_out[0](attended_BQNK.flatten(2))
        return attn.to_out[1](hidden_BQD)  # type: ignore[no-any-return]  # untyped module list

    def attend(self, q_BQNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Let every query see every key; (B, Q, N, K)."""
        if self.kernel is not None and self._attention_backend == AttentionBackendName.NATIVE:
            q_BNQK, k_BNLK, v_BNLK = (x.transpose(1, 2) for x in (q_BQNK, k_BLNK, v_BLNK))
            return kernels.attend(q_BNQK, k_BNLK, v_BNLK, self.kernel).transpose(1, 2)
        return dispatch_attention_fn(  # type: ignore[no-any-return]  # diffusers is untyped
            q_BQNK,
            k_BLNK,
            v_BLNK,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        )

    def _cut(
        self,
        x_BLNK: Tensor,
        text_sizes: tuple[int, ...],
        video_sizes: tuple[int, ...],
        rotary_VR2: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Cut into segments; with a table, the video ones rotated."""
        if rotary_VR2 is None:
            return x_BLNK.split_with_sizes((*text_sizes, *video_sizes), dim=1)
        if not text_sizes:
            return self.rotate(x_BLNK, rotary_VR2).split_with_sizes(video_sizes, dim=1)
        text_BTNK, video_BVNK = x_BLNK.split_with_sizes((sum(text_sizes), sum(video_sizes)), dim=1)
        videos = self.rotate(video_BVNK, rotary_VR2).split_with_sizes(video_sizes, dim=1)
        return (*text_BTNK.split_with_sizes(text_sizes, dim=1), *videos)

    def _run(
        self, plan: BlockPlan, queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        sizes = (*plan.query_text_sizes, *plan.query_video_sizes)
        served: dict[int, Tensor] = {}
        for call in plan.calls:
            out_BQNK = self.attend(
                _join([queries[index] for index in call.queries]),
                _join([keys[index] for index in call.keys]),
                _join([values[index] for index in call.keys]),
            )
            if len(plan.calls) == 1:
                return out_BQNK
            pieces = out_BQNK.split_with_sizes([sizes[index] for index in call.queries], dim=1)
            served.update(zip(call.queries, pieces, strict=True))
        return _join([served[index] for index in range(len(sizes))])


def project(
    attn: Attention, tokens_BLD: Tensor, *, has_queries: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Make queries, keys and values of tokens, cut into heads and normalized, not rotated.

    Args:
        attn: The block's projections and norms.
        tokens_BLD: Normalized tokens.
        has_queries: Whether queries are wanted; without, the first result is None.
    """
    if has_queries and attn.fused_projections:
        q_BLD, k_BLD, v_BLD = attn.to_qkv(tokens_BLD).chunk(3, dim=-1)
    else:
        q_BLD = attn.to_q(tokens_BLD) if has_queries else None
        k_BLD, v_BLD = attn.to_k(tokens_BLD), attn.to_v(tokens_BLD)
    return (
        None if q_BLD is None else _split_heads(attn, q_BLD, norm=attn.norm_q),
        _split_heads(attn, k_BLD, norm=attn.norm_k),
        _split_heads(attn, v_BLD, norm=None),
    )


def _split_heads(attn: Attention, projected_BLD: Tensor, *, norm: torch.nn.Module | None) -> Tensor:
    heads_BLNK: Tensor = torch.unflatten(projected_BLD, -1, (attn.heads, -1))
    return heads_BLNK if norm is None else norm(heads_BLNK)


def _join(pieces: Sequence[Tensor], *, dim: int = 1) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=dim)


def _segments_in(spans: Sequence[Span], segments: Sequence[Segment]) -> list[int]:
    return [
        index
        for index, segment in enumerate(segments)
        if any(span.start <= segment.start and segment.stop <= span.stop for span in spans)
    ]
