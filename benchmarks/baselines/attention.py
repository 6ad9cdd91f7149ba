"""Attention alone under a story's mask: with a dense mask, FlexAttention's block mask, and by m2d's plan.

Owns the three functions of queries, keys and values; no projection, no rotary embedding.
"""

# B batch, A heads, L tokens, K head dim.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from m2d.layout import SceneLayout

AttentionOf = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_attention(layout: SceneLayout, device: str) -> AttentionOf:
    """One call with a boolean mask of all tokens by all tokens."""
    mask_LL = torch.from_numpy(layout.dense()).to(device)
    attend = nn.functional.scaled_dot_product_attention
    return lambda q, k, v: attend(q, k, v, attn_mask=mask_LL)


def flex_attention_of(layout: SceneLayout, device: str) -> AttentionOf:
    """FlexAttention, compiled, with a block mask looked up by segment."""
    lengths = torch.tensor([len(segment.span) for segment in layout.segments])
    segment_L = torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)
    may_attend = torch.from_numpy(layout.may_attend.copy()).to(device)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return may_attend[segment_L[query], segment_L[key]]

    size = layout.num_tokens
    block_mask = create_block_mask(sees, None, None, size, size, device=device, _compile=device != "cpu")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask)


def plan_attention(layout: SceneLayout, q_BALK: Tensor, k_BALK: Tensor, v_BALK: Tensor) -> Tensor:
    """The calls of the layout's plan, keys joined for each; (B, A, L, K)."""
    out_BALK = torch.empty_like(q_BALK)
    for call in layout.plan():
        query, key, value = (
            _rows(x, [span.as_slice for span in spans])
            for x, spans in ((q_BALK, call.queries), (k_BALK, call.keys), (v_BALK, call.keys))
        )
        attended = nn.functional.scaled_dot_product_attention(query, key, value)
        start = 0
        for span in call.queries:
            out_BALK[:, :, span.as_slice] = attended[:, :, start : start + len(span)]
            start += len(span)
    return out_BALK


def _rows(x_BALK: Tensor, places: list[slice]) -> Tensor:
    pieces = [x_BALK[:, :, place] for place in places]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)
