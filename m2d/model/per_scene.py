"""Runs a block one scene after the other: least memory traffic and use, for inference at large sizes.

Computes the same as the joined form of a block, but never concatenates activations: queries, attention
outputs and feed-forward are computed scene by scene. Keys and values are in one buffer, `[slot | all video]`.
A call whose keys are consecutive videos reads them from the buffer, with the texts that it sees copied in
front. The code writes in place, so it cannot be differentiated, compiled or exported.
"""

# B batch, N scenes or heads, S tokens of a segment or a scene, T text tokens, V video tokens, Q query tokens,
# D width, E width of the timestep embedding, K head dim, R = K/2.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from m2d.layout import Span
from m2d.model.attention import SceneAttnProcessor, project
from m2d.model.block_plan import BlockContext, BlockPlan, SegmentCall, join, spans_of
from m2d.model.modulation import Modulation, modulate, modulations
from m2d.model.rotary import rotate_into
from m2d.model.scene_lora import RowLoras, apply_feed_forward, apply_linear


class BlockParts(Protocol):
    """The submodules of a block, by CogVideoX's names."""

    norm1: Any
    attn1: Attention
    norm2: Any
    ff: nn.Module


def run_per_scene(
    block: BlockParts,
    text_BTD: Tensor,
    video_BVD: Tensor,
    temb_BNE: Tensor,
    rotary_VR2: Tensor | None,
    plan: BlockPlan,
    context: BlockContext | None,
) -> tuple[Tensor, Tensor]:
    """Run a block; arguments and results are those of the block's forward."""
    text, video = modulations(block.norm1, temb_BNE, plan.scene_loras)
    queries, rows = _project(block, text_BTD, video_BVD, (text, video), rotary_VR2, plan)
    served = attend_segments(block.attn1.processor, queries, rows, plan, context)
    del queries, rows
    video_BQD = _add_attention(block, video_BVD, served, video.gate_BND, plan)
    if plan.targets is None:
        num_texts = len(plan.text_sizes)
        update_BTD = _project_out(block.attn1, served[:num_texts], plan.text_loras)
        text_BTD = _add(text_BTD, update_BTD, text.gate_BND, plan.text_sizes)
    del served
    text, video = modulations(block.norm2, plan.target_scenes(temb_BNE), plan.target_scene_loras)
    _feed_forward(block, video_BQD, video, plan.target_tokens, plan.target_loras)
    if plan.targets is None:
        _feed_forward(block, text_BTD, text, plan.text_sizes, plan.text_loras, is_whole=True)
    return text_BTD, video_BQD


class KeyRows(NamedTuple):
    """Keys and values of the texts, and a buffer with those of all video after a slot for texts."""

    text_k: Sequence[Tensor]
    text_v: Sequence[Tensor]
    k_BSNK: Tensor
    v_BSNK: Tensor
    slot: int

    @classmethod
    def empty(cls, k_BTNK: Tensor, v_BTNK: Tensor, plan: BlockPlan) -> KeyRows:
        """Store the keys and values of the texts, and allocate the buffer."""
        num_texts = len(plan.text_sizes)
        # The most text rows that a call sees.
        slot = max(
            sum(plan.text_sizes[index] for index in call.keys if index < num_texts) for call in plan.calls
        )
        shape = (k_BTNK.shape[0], slot + sum(plan.video_sizes), *k_BTNK.shape[2:])
        return cls(
            text_k=k_BTNK.split_with_sizes(plan.text_sizes, dim=1),
            text_v=v_BTNK.split_with_sizes(plan.text_sizes, dim=1),
            k_BSNK=k_BTNK.new_empty(shape),
            v_BSNK=v_BTNK.new_empty(shape),
            slot=slot,
        )

    def segments(self, plan: BlockPlan) -> tuple[list[Tensor], list[Tensor]]:
        """Return the keys of all segments and the values of all segments."""
        keys, values = (
            rows[:, self.slot :].split_with_sizes(plan.video_sizes, dim=1)
            for rows in (self.k_BSNK, self.v_BSNK)
        )
        return [*self.text_k, *keys], [*self.text_v, *values]

    @contextmanager
    def joined(self, texts: Sequence[int], run: Span) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield keys and values of some texts and consecutive video rows, by copying the texts in front.

        The copy overwrites the rows before `run`; if they belong to another scene's video, they are restored.
        """
        length = sum(self.text_k[index].shape[1] for index in texts)
        if not length:
            yield self.k_BSNK[:, run.start : run.stop], self.v_BSNK[:, run.start : run.stop]
            return
        borrowed = slice(run.start - length, run.start)
        is_video = run.start > self.slot
        pairs = ((self.k_BSNK, self.text_k), (self.v_BSNK, self.text_v))
        kept = [rows[:, borrowed].clone() for rows, _ in pairs] if is_video else []
        for rows, pieces in pairs:
            start = borrowed.start
            for index in texts:
                rows[:, start : start + pieces[index].shape[1]] = pieces[index]
                start += pieces[index].shape[1]
        yield self.k_BSNK[:, borrowed.start : run.stop], self.v_BSNK[:, borrowed.start : run.stop]
        for (rows, _), rows_before in zip(pairs, kept, strict=False):
            rows[:, borrowed] = rows_before


def attend_segments(
    processor: SceneAttnProcessor,
    queries: Sequence[Tensor],
    rows: KeyRows,
    plan: BlockPlan,
    context: BlockContext | None = None,
) -> list[Tensor]:
    """Run a plan's attention calls.

    Args:
        processor: Runs one call with its kernel.
        queries: Rotated queries of each query segment, BSNK.
        rows: Keys and values of all segments.
        plan: The calls.
        context: Further keys and values, or None.

    Returns:
        Attention output of each query segment, BSNK, in the plan's order.
    """
    sizes = (*plan.query_text_sizes, *plan.query_video_sizes)
    keys, values = rows.segments(plan)
    if context is not None:
        joined = context.join(keys, values)
        keys, values = list(joined[0]), list(joined[1])
    served: dict[int, Tensor] = {}
    for call in plan.calls:
        query_BQNK = join([queries[index] for index in call.queries])
        run = _video_run(call, plan, rows.slot)
        if run is None:
            k_BSNK, v_BSNK = (join([rows_of[index] for index in call.keys]) for rows_of in (keys, values))
            out_BQNK = processor.attend(query_BQNK, k_BSNK, v_BSNK)
        else:
            texts = [index for index in call.keys if index < len(plan.text_sizes)]
            with rows.joined(texts, run) as (k_BSNK, v_BSNK):
                out_BQNK = processor.attend(query_BQNK, k_BSNK, v_BSNK)
        pieces = out_BQNK.split_with_sizes([sizes[index] for index in call.queries], dim=1)
        served.update(zip(call.queries, pieces, strict=True))
    return [served[index] for index in range(len(sizes))]


def _project(
    block: BlockParts,
    text_BTD: Tensor,
    video_BVD: Tensor,
    modulation: tuple[Modulation, Modulation],
    rotary_VR2: Tensor | None,
    plan: BlockPlan,
) -> tuple[list[Tensor], KeyRows]:
    """Return the queries of the query segments, and the keys and values of all segments."""
    attn, norm, (text, video) = block.attn1, block.norm1.norm, modulation
    normed_BTD = modulate(norm(text_BTD), text.shift_BND, text.scale_BND, plan.text_sizes)
    q_BTNK, k_BTNK, v_BTNK = project(attn, normed_BTD, plan.text_loras, has_queries=plan.targets is None)
    queries = [] if q_BTNK is None else list(q_BTNK.split_with_sizes(plan.text_sizes, dim=1))
    rows = KeyRows.empty(k_BTNK, v_BTNK, plan)
    normed_BVD = norm(video_BVD)
    targets = range(len(plan.video_tokens)) if plan.targets is None else plan.targets
    for scene, span in enumerate(spans_of(plan.video_tokens)):
        tokens_BSD = _modulate_scene(normed_BVD[:, span.as_slice], video, scene)
        loras = plan.video_loras[scene : scene + 1]
        q_BSNK, k_BSNK, v_BSNK = project(attn, tokens_BSD, loras, has_queries=scene in targets)
        place = slice(rows.slot + span.start, rows.slot + span.stop)
        table = None if rotary_VR2 is None else rotary_VR2[span.as_slice]
        rotate_into(rows.k_BSNK[:, place], k_BSNK, table)
        rows.v_BSNK[:, place] = v_BSNK
        if q_BSNK is not None:
            if table is not None:
                rotate_into(q_BSNK, q_BSNK, table)
            segments = [each for each in spans_of(plan.video_sizes) if span.start <= each.start < span.stop]
            queries += q_BSNK.split_with_sizes([len(each) for each in segments], dim=1)
    return queries, rows


def _video_run(call: SegmentCall, plan: BlockPlan, slot: int) -> Span | None:
    """Return the buffer's rows of a call's video keys if they are consecutive; None otherwise."""
    num_texts, num_segments = len(plan.text_sizes), len(plan.text_sizes) + len(plan.video_sizes)
    videos = [index for index in call.keys if index >= num_texts]
    is_run = bool(videos) and videos == list(range(videos[0], videos[-1] + 1)) and videos[-1] < num_segments
    if not is_run:
        return None
    spans = spans_of(plan.video_sizes)
    return Span(slot + spans[videos[0] - num_texts].start, slot + spans[videos[-1] - num_texts].stop)


def _add_attention(
    block: BlockParts, video_BVD: Tensor, served: list[Tensor], gate_BND: Tensor, plan: BlockPlan
) -> Tensor:
    """Return the query scenes' video tokens after adding the attention outputs in `served`."""
    scenes = range(len(plan.video_tokens)) if plan.targets is None else plan.targets
    sources, places = spans_of(plan.video_tokens), spans_of(plan.target_tokens)
    segments = spans_of(plan.query_video_sizes)
    num_texts = len(plan.query_text_sizes)
    shape = (video_BVD.shape[0], sum(plan.target_tokens), video_BVD.shape[2])
    video_BQD = video_BVD.new_empty(shape)
    for number, (scene, place) in enumerate(zip(scenes, places, strict=True)):
        own = [i for i, span in enumerate(segments) if place.start <= span.start < place.stop]
        loras = plan.target_loras[number : number + 1]
        update_BSD = _project_out(block.attn1, [served[num_texts + index] for index in own], loras)
        before_BSD = video_BVD[:, sources[scene].as_slice]
        out_BSD = video_BQD[:, place.as_slice]
        torch.addcmul(before_BSD, update_BSD, gate_BND[:, scene : scene + 1], out=out_BSD)
    return video_BQD


def _project_out(attn: Attention, pieces: Sequence[Tensor], loras: RowLoras) -> Tensor:
    hidden_BSD = apply_linear(attn.to_out[0], join(pieces).flatten(2), loras)
    return attn.to_out[1](hidden_BSD)  # type: ignore[no-any-return]  # untyped module list


def _add(tokens_BLD: Tensor, update_BLD: Tensor, gate_BND: Tensor, lengths: Sequence[int]) -> Tensor:
    added_BLD = torch.empty_like(tokens_BLD)
    for scene, span in enumerate(spans_of(lengths)):
        rows = span.as_slice
        torch.addcmul(
            tokens_BLD[:, rows],
            update_BLD[:, rows],
            gate_BND[:, scene : scene + 1],
            out=added_BLD[:, rows],
        )
    return added_BLD


def _feed_forward(
    block: BlockParts,
    tokens_BLD: Tensor,
    modulation: Modulation,
    lengths: Sequence[int],
    loras: RowLoras,
    *,
    is_whole: bool = False,
) -> None:
    """Add the feed-forward update in place, scene by scene or, if `is_whole`, for all tokens at once."""
    normed_BLD = block.norm2.norm(tokens_BLD)
    if is_whole:
        normed_BLD = modulate(normed_BLD, modulation.shift_BND, modulation.scale_BND, tuple(lengths))
        whole_BLD = apply_feed_forward(block.ff, normed_BLD, loras)
    for scene, span in enumerate(spans_of(lengths)):
        rows = span.as_slice
        if is_whole:
            update_BSD = whole_BLD[:, rows]
        else:
            modulated_BSD = _modulate_scene(normed_BLD[:, rows], modulation, scene)
            update_BSD = apply_feed_forward(block.ff, modulated_BSD, loras[scene : scene + 1])
        tokens_BLD[:, rows].addcmul_(update_BSD, modulation.gate_BND[:, scene : scene + 1])


def _modulate_scene(normed_BSD: Tensor, modulation: Modulation, scene: int) -> Tensor:
    row = slice(scene, scene + 1)
    return torch.addcmul(modulation.shift_BND[:, row], normed_BSD, 1 + modulation.scale_BND[:, row])
