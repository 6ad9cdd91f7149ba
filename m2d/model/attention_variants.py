"""Attention of comparison methods that no segment mask can state: soft masks and keys drawn at random.

Each replaces how a block's calls are run; `m2d.model.attention` projects, rotates and splits as always.
"""

# B batch, S tokens of a segment, Q query tokens, L key tokens, N heads, K head dim, F frames, T text segments

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from m2d.layout import SceneLayout
from m2d.model.block_plan import BlockPlan, join

VariantName = Literal["plain", "prompt-relay", "consistent"]
MASK_OF: dict[str, str] = {"prompt-relay": "full", "consistent": "isolated"}
"""The mask that each variant is defined for."""

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

_RELAY_END = 0.1
_RELAY_PLATEAU = 0.5
_SAMPLED_SHARE = 0.5
_FIRST_STEP = 960
_EARLY_STEP = 600
_ON_EARLY, _ON_LATE = 0.7, 0.9
# Kernels for GPUs take head dimensions that are multiples of this.
_HEAD_MULTIPLE = 8


class BlockVariant(Protocol):
    """Runs the attention of one block, given its queries, keys and values by segment, BSNK each."""

    def __call__(
        self,
        attend: Attend,
        plan: BlockPlan,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        """Return the output of all queries in the plan's order, BQNK."""


class AttentionVariant(Protocol):
    """Attention of one call of the model."""

    def in_block(self, block: int, *, num_blocks: int) -> BlockVariant | None:
        """Return what replaces the calls of a block; None runs its plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptRelay:
    """Prompt Relay (arXiv 2604.10030): video queries pay a cost for the prompts of other scenes.

    The logit of a query in frame f and a key in the prompt of scene s is lowered by
    `relu(|f - m| - w)^2 / (2 sigma^2)`. m is the middle of scene s in frames, w is half of its half-length,
    and sigma makes the factor 0.1 at its ends, as in the authors' code for CogVideoX
    (`pipeline_cogvideox.py`, epsilon 0.1, w = 0.5 L). Their middle is (start + end) / 2 with an exclusive
    end, which is half a frame late; this one is exact. Text queries pay nothing, and neither does the first
    half of a batch, which holds the negative prompts of guidance.

    The cost has one column per prompt, so it is a product of two thin matrices. They lengthen queries and
    keys instead of forming a mask: every kernel can run it.
    """

    layout: SceneLayout

    def in_block(self, block: int, *, num_blocks: int) -> BlockVariant | None:
        """Return the attention of every block."""
        del block, num_blocks
        return self._attend

    def cost_FT(self) -> Tensor:
        """Return what each frame of the story pays for each prompt, float32; frames of a token count once."""
        counts = [frames // self.layout.frames_per_token for frames in self.layout.latent_frames]
        frames_F = torch.arange(sum(counts), dtype=torch.float32)
        columns = []
        for scene, count in enumerate(counts):
            middle, half = sum(counts[:scene]) + (count - 1) / 2, count / 2
            sigma = half * (1 - _RELAY_PLATEAU) / math.sqrt(2 * math.log(1 / _RELAY_END))
            beyond_F = ((frames_F - middle).abs() - _RELAY_PLATEAU * half).relu()
            columns.append(beyond_F.square() / (2 * sigma**2))
        return torch.stack(columns, dim=1)

    def _attend(
        self,
        attend: Attend,
        plan: BlockPlan,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        q_BQNK, k_BLNK, v_BLNK = join(queries), join(keys), join(values)
        num_texts, size = len(plan.text_sizes), q_BQNK.shape[-1]
        added = -(-(size + num_texts) // _HEAD_MULTIPLE) * _HEAD_MULTIPLE - size
        cost_VT = self.cost_FT().to(q_BQNK.device).repeat_interleave(self.layout.tokens_per_frame, dim=0)
        cost_QT = cost_VT if plan.targets is None else plan.target_rows(cost_VT, dim=0)
        extra_BQNT = q_BQNK.new_zeros(*q_BQNK.shape[:3], added)
        # The kernels divide by the root of the longer head dimension.
        extra_BQNT[-1, sum(plan.query_text_sizes) :, :, :num_texts] = (
            -cost_QT[:, None] * math.sqrt(size + added)
        ).to(q_BQNK.dtype)
        marks_BLNT = k_BLNK.new_zeros(*k_BLNK.shape[:3], added)
        start = 0
        for scene, count in enumerate(plan.text_sizes):
            marks_BLNT[:, start : start + count, :, scene] = 1
            start += count
        out_BQNK = attend(
            torch.cat([q_BQNK * math.sqrt((size + added) / size), extra_BQNT], dim=-1),
            torch.cat([k_BLNK, marks_BLNT], dim=-1),
            torch.nn.functional.pad(v_BLNK, (0, added)),
        )
        return out_BQNK[..., :size]


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsistentAttention:
    """StoryDiffusion's consistent self-attention (arXiv 2405.01434) for otherwise `isolated` scenes.

    The video of a scene also sees half of the video tokens of every other scene, drawn for each step and
    shared by the blocks. It acts in the later half of the blocks, as in the up blocks of the authors' code:
    never in the first step of 25, then in a block with probability 0.7, from timestep 600 down with 0.9.
    Draws depend on the timestep alone.
    """

    timestep: int

    def in_block(self, block: int, *, num_blocks: int) -> BlockVariant | None:
        """Return the attention of a block where it acts at this timestep."""
        chance = _ON_EARLY if self.timestep >= _EARLY_STEP else _ON_LATE
        drawn = float(torch.rand(1, generator=self._generator(purpose=0, number=block)))
        is_on = block >= num_blocks // 2 and self.timestep < _FIRST_STEP and drawn < chance
        return self._attend if is_on else None

    def _attend(
        self,
        attend: Attend,
        plan: BlockPlan,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
    ) -> Tensor:
        num_texts, num_queried = len(plan.text_sizes), len(plan.query_text_sizes)
        picks = [self._drawn(scene, size) for scene, size in enumerate(plan.video_sizes)]
        texts, videos = [], []
        for position, scene in enumerate(range(num_texts) if plan.targets is None else plan.targets):
            own = (scene, num_texts + scene)
            others = [other for other in range(num_texts) if other != scene]

            def seen(rows: Sequence[Tensor], own: Sequence[int] = own, others: list[int] = others) -> Tensor:
                drawn = [rows[num_texts + each][:, picks[each].to(rows[0].device)] for each in others]
                return join([*(rows[index] for index in own), *drawn])

            if num_queried:
                own_k, own_v = (join([rows[index] for index in own]) for rows in (keys, values))
                texts.append(attend(queries[scene], own_k, own_v))
            videos.append(attend(queries[num_queried + position], seen(keys), seen(values)))
        return join([*texts, *videos])

    def _drawn(self, scene: int, num_tokens: int) -> Tensor:
        drawn = torch.rand(num_tokens, generator=self._generator(purpose=1, number=scene))
        return (drawn < _SAMPLED_SHARE).nonzero()[:, 0]

    def _generator(self, *, purpose: int, number: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.timestep * 2 + purpose) * 10_000 + number)


def variant_of(name: VariantName, layout: SceneLayout, *, timestep: int) -> AttentionVariant | None:
    """Return the attention of one call of the model; None for the plain one."""
    if name == "prompt-relay":
        return PromptRelay(layout=layout)
    return ConsistentAttention(timestep=timestep) if name == "consistent" else None
