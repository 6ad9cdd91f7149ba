"""Attention alone under a story's mask: with a dense mask, with FlexAttention's block mask, by m2d's plan.

Owns three functions of queries, keys and values, without projections and rotary embeddings.
"""

# B batch, A heads, L tokens, V video tokens, S tokens of a segment or of a buffer, K head dim.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from m2d.layout import SceneLayout
from m2d.model.attention import SceneAttnProcessor
from m2d.model.block_plan import scenes_plan
from m2d.model.per_scene import KeyRows, attend_segments

_MOST_MASK_ENTRIES = 2**31 - 1
AttentionOf = Callable[[Tensor, Tensor, Tensor], Tensor]


def dense_attention(layout: SceneLayout, device: str) -> AttentionOf:
    """Attend with a boolean mask of all tokens by all tokens.

    Kernels count mask entries in 32 bits, so the queries are split into parts with masks below 2^31 entries:
    one part, or two at the size of CogVideoX-5B.
    """
    size = layout.num_tokens
    segment_L = _segment_of_token(layout, device)
    may_attend = torch.from_numpy(layout.may_attend.copy()).to(device)
    # Made on the device: three gigabytes at full size.
    mask_LL = may_attend.index_select(0, segment_L).index_select(1, segment_L)
    # A multiple of 16, so that no row of a part needs padding.
    part = -(-size // -(-(size**2) // _MOST_MASK_ENTRIES) // 16) * 16
    parts = [slice(start, min(start + part, size)) for start in range(0, size, part)]
    attend = nn.functional.scaled_dot_product_attention

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        outputs = [attend(q[:, :, rows], k, v, attn_mask=mask_LL[rows]) for rows in parts]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)

    return run


def flex_attention_of(layout: SceneLayout, device: str) -> AttentionOf:
    """Attend by compiled FlexAttention with a block mask that is looked up by segment."""
    segment_L = _segment_of_token(layout, device)
    may_attend = torch.from_numpy(layout.may_attend.copy()).to(device)

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return may_attend[segment_L[query], segment_L[key]]

    size = layout.num_tokens
    block_mask = create_block_mask(sees, None, None, size, size, device=device, _compile=device != "cpu")
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda q, k, v: compiled(q, k, v, block_mask=block_mask)


class PlannedAttention:
    """m2d's plan as a block runs it, scene by scene, with keys and values already in its buffer."""

    def __init__(
        self,
        layout: SceneLayout,
        q_BALK: Tensor,
        k_BALK: Tensor,
        v_BALK: Tensor,
        *,
        kernel: SDPBackend | None = None,
    ) -> None:
        self._plan = scenes_plan(layout).plan
        self._processor = SceneAttnProcessor()
        self._processor.kernel = kernel
        q_BLAK, k_BLAK, v_BLAK = (x.transpose(1, 2) for x in (q_BALK, k_BALK, v_BALK))
        num_text, sizes = layout.num_text_tokens, (*self._plan.text_sizes, *self._plan.video_sizes)
        self._queries = q_BLAK.split_with_sizes(sizes, dim=1)
        self._rows = KeyRows.empty(k_BLAK[:, :num_text], v_BLAK[:, :num_text], self._plan)
        self._video_BVAK = q_BLAK[:, num_text:]
        for rows_BSAK, x_BLAK in ((self._rows.k_BSNK, k_BLAK), (self._rows.v_BSNK, v_BLAK)):
            rows_BSAK[:, self._rows.slot :] = x_BLAK[:, num_text:]

    def all_segments(self) -> list[Tensor]:
        """Return the output of every segment, (B, S, A, K), in the order of the layout."""
        return attend_segments(self._processor, self._queries, self._rows, self._plan)

    def video_alone(self) -> Tensor:
        """Attend from all video queries to all video keys in one call, without any text."""
        slot = self._rows.slot
        return self._processor.attend(
            self._video_BVAK, self._rows.k_BSNK[:, slot:], self._rows.v_BSNK[:, slot:]
        )


def _segment_of_token(layout: SceneLayout, device: str) -> Tensor:
    lengths = torch.tensor([len(segment.span) for segment in layout.segments])
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths).to(device)
