"""Runs a layout's plan: attention between segments as calls without a mask.

Owns how queries, keys and values are split into segments and concatenated for each call. `m2d.layout` owns
which segment may attend to which.
"""

# B batch, L tokens, T text tokens, V video tokens, Q query tokens, D width, N heads, K head dim, R = K/2.

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.attention import SDPBackend

from m2d.model import kernels
from m2d.model.attention_variants import BlockVariant
from m2d.model.block_plan import BlockContext, BlockPlan, join
from m2d.model.rotary import apply_rotary
from m2d.model.scene_lora import RowLoras, apply_linear


class SceneAttnProcessor:
    """Attention of one block over `[text | video]` tokens, following a `BlockPlan`."""

    # Set by diffusers' `set_attention_backend`. With an explicit default, no environment variable applies.
    _attention_backend: AttentionBackendName | None = AttentionBackendName.NATIVE
    _parallel_config = None
    # The kernel of torch to use, and no other; None leaves the choice to torch.
    kernel: SDPBackend | None = None
    # Rotates queries and keys; an export may replace it by an operator of its graph.
    rotate: Callable[[Tensor, Tensor], Tensor] = staticmethod(apply_rotary)
    # Replaces the plan's calls; None runs them.
    variant: BlockVariant | None = None

    def __call__(
        self,
        attn: Attention,
        tokens_BLD: Tensor,
        *,
        plan: BlockPlan,
        rotary_VR2: Tensor | None,
        context: BlockContext | None = None,
    ) -> Tensor:
        """Run the block's attention.

        Args:
            attn: The block's projections and norms.
            tokens_BLD: All tokens, normalized.
            plan: The queries, keys and calls.
            rotary_VR2: Rotary table of all video tokens, or None.
            context: Further keys and values, whose segments the plan counts after those of the tokens.

        Returns:
            Output of the queries, (B, Q, D): all tokens, or the target scenes' video tokens.
        """
        queried_BQD, query_rotary = tokens_BLD, rotary_VR2
        if plan.targets is not None:
            queried_BQD = plan.target_rows(tokens_BLD[:, sum(plan.text_sizes) :])
            query_rotary = None if rotary_VR2 is None else plan.target_rows(rotary_VR2, dim=0)

        loras = plan.text_loras + plan.video_loras
        if queried_BQD is tokens_BLD:
            q_BQNK, k_BLNK, v_BLNK = project(attn, tokens_BLD, loras, has_queries=True)
            assert q_BQNK is not None
        else:
            _, k_BLNK, v_BLNK = project(attn, tokens_BLD, loras, has_queries=False)
            projected_BQD = apply_linear(attn.to_q, queried_BQD, plan.query_loras)
            q_BQNK = _split_heads(attn, projected_BQD, norm=attn.norm_q)

        queries = self._cut(q_BQNK, plan.query_text_sizes, plan.query_video_sizes, query_rotary)
        keys: Sequence[Tensor] = self._cut(k_BLNK, plan.text_sizes, plan.video_sizes, rotary_VR2)
        values: Sequence[Tensor] = self._cut(v_BLNK, plan.text_sizes, plan.video_sizes, None)
        if context is not None:
            keys, values = context.join(keys, values)
        if self.variant is None:
            attended_BQNK = self._run(plan, queries, keys, values)
        else:
            attended_BQNK = self.variant(self.attend, plan, queries, keys, values)
        hidden_BQD = apply_linear(attn.to_out[0], attended_BQNK.flatten(2), plan.query_loras)
        return attn.to_out[1](hidden_BQD)  # type: ignore[no-any-return]  # untyped module list

    def attend(self, q_BQNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor) -> Tensor:
        """Attend from every query to every key; returns (B, Q, N, K)."""
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
        """Split into segments; a table rotates the video segments."""
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
                join([queries[index] for index in call.queries]),
                join([keys[index] for index in call.keys]),
                join([values[index] for index in call.keys]),
            )
            if len(plan.calls) == 1:
                return out_BQNK
            pieces = out_BQNK.split_with_sizes([sizes[index] for index in call.queries], dim=1)
            served.update(zip(call.queries, pieces, strict=True))
        return join([served[index] for index in range(len(sizes))])


def project(
    attn: Attention, tokens_BLD: Tensor, loras: RowLoras, *, has_queries: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Project tokens to queries, keys and values per head, normalized but not rotated.

    Args:
        attn: The block's projections and norms.
        tokens_BLD: Normalized tokens.
        loras: LoRAs of the tokens.
        has_queries: Whether to compute queries; otherwise the first result is None.
    """
    return (
        _split_heads(attn, apply_linear(attn.to_q, tokens_BLD, loras), norm=attn.norm_q)
        if has_queries
        else None,
        _split_heads(attn, apply_linear(attn.to_k, tokens_BLD, loras), norm=attn.norm_k),
        _split_heads(attn, apply_linear(attn.to_v, tokens_BLD, loras), norm=None),
    )


def _split_heads(attn: Attention, projected_BLD: Tensor, *, norm: torch.nn.Module | None) -> Tensor:
    heads_BLNK: Tensor = torch.unflatten(projected_BLD, -1, (attn.heads, -1))
    return heads_BLNK if norm is None else norm(heads_BLNK)
