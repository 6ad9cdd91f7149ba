"""Variants of attention against dense masks."""

# B batch, Q query tokens, L key tokens, N heads, K head dim

import math
from typing import Any

import numpy as np
import pytest
import torch
from m2d_backends.eager import EagerBackend
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.errors import InputError
from m2d.families.source import resolve_model
from m2d.layout import SceneLayout
from m2d.model.attention_variants import ConsistentAttention, PromptRelay
from m2d.model.block_plan import BlockPlan, scenes_plan
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, build_tiny_model

HEADS, SIZE = 2, 16


def layout_of(mask: str) -> SceneLayout:
    return SceneLayout.build(mask, text_tokens=(3, 2), latent_frames=(3, 2), tokens_per_frame=4)


def attend(q_BQNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor, cost_BQL: Tensor | float = 0.0) -> Tensor:
    logits_BNQL = torch.einsum("bqnk,blnk->bnql", q_BQNK, k_BLNK) / math.sqrt(q_BQNK.shape[-1])
    cost = cost_BQL[:, None] if isinstance(cost_BQL, Tensor) else cost_BQL
    return torch.einsum("bnql,blnk->bqnk", (logits_BNQL - cost).softmax(-1), v_BLNK)


def run(variant: Any, layout: SceneLayout, plan: BlockPlan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return output, queries, keys and values of random tokens under a variant, BQNK and BLNK."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, layout.num_tokens, HEADS, SIZE, generator=rng) for _ in range(3))
    sizes = [*plan.text_sizes, *plan.video_sizes]
    rows = q if plan.targets is None else plan.target_rows(q[:, layout.num_text_tokens :])
    queries = rows.split([*plan.query_text_sizes, *plan.query_video_sizes], dim=1)
    block = variant.in_block(5, num_blocks=6)
    return block(attend, plan, queries, k.split(sizes, dim=1), v.split(sizes, dim=1)), rows, k, v


@pytest.mark.parametrize("targets", [None, (1,)])
def test_relay_lowers_the_logits_of_other_scenes_prompts_and_leaves_the_negative_prompt(targets):
    layout = layout_of("full")
    plan = scenes_plan(layout, targets=targets).last_plan if targets else scenes_plan(layout).plan
    variant = PromptRelay(layout=layout)
    out, rows, k, v = run(variant, layout, plan)
    cost_QL = torch.zeros(layout.num_tokens, layout.num_tokens)
    per_frame = variant.cost_FT()
    for scene in range(2):
        span = layout.text_span(scene).as_slice
        cost_QL[layout.num_text_tokens :, span] = per_frame[:, scene].repeat_interleave(4)[:, None]
    if targets:
        cost_QL = cost_QL[layout.video_span(1).as_slice]
    expected = attend(rows, k, v, torch.stack([torch.zeros_like(cost_QL), cost_QL]))
    # Both sum over at most 40 columns in float32.
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


def test_relay_has_the_authors_factor_at_the_ends_of_a_scene():
    layout = SceneLayout.build("full", text_tokens=(1, 1), latent_frames=(13, 13), tokens_per_frame=1)
    factors = (-PromptRelay(layout=layout).cost_FT()).exp()
    assert factors[6, 0] == 1
    assert (factors[:13, 0] >= 0.1).all()
    assert (factors[13:, 0] < 0.1).all()
    torch.testing.assert_close(factors[:, 0], factors.flip(0)[:, 1])


def test_consistent_attention_adds_drawn_tokens_of_other_scenes_to_video_queries_alone():
    layout, variant = layout_of("isolated"), ConsistentAttention(timestep=100)
    plan = scenes_plan(layout).plan
    out, rows, k, v = run(variant, layout, plan)
    sees = torch.from_numpy(np.array(layout.dense()))
    for scene in range(2):
        other = layout.video_span(1 - scene)
        drawn = variant._drawn(1 - scene, len(other)) + other.start
        assert 0 < len(drawn) < len(other)
        queries = torch.arange(layout.video_span(scene).start, layout.video_span(scene).stop)
        sees[queries[:, None], drawn[None]] = True
    expected = attend(rows, k, v, torch.where(sees, 0.0, torch.inf).expand(2, -1, -1))
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)


def test_consistent_attention_rests_in_the_first_step_and_the_early_blocks():
    def acts(timestep: int) -> list[bool]:
        variant = ConsistentAttention(timestep=timestep)
        return [variant.in_block(block, num_blocks=40) is not None for block in range(40)]

    assert not any(acts(999))
    assert not any(acts(500)[:20])
    counts = [sum(sum(acts(timestep)) for timestep in steps) for steps in (range(600, 900), range(300))]
    assert counts[0] / (300 * 20) == pytest.approx(0.7, abs=0.02)
    assert counts[1] / (300 * 20) == pytest.approx(0.9, abs=0.02)


def test_eager_runs_a_variant_for_one_denoiser_and_the_plan_for_the_next(tmp_path):
    source, backend = resolve_model(str(build_tiny_model(tmp_path / "model"))), EagerBackend()
    layout = layout_of("full")
    rng = torch.Generator().manual_seed(1)
    inputs = (
        torch.randn(1, 5, LATENT_CHANNELS, 4, 4, generator=rng),
        torch.randn(1, 5, TEXT_WIDTH, generator=rng),
        torch.full((1, 2), 500),
    )
    relay = BackendOptions(extra={"attention": "prompt-relay"})
    plain = backend.prepare(source, layout, BackendOptions()).predict(*inputs)
    varied = backend.prepare(source, layout, relay).predict(*inputs)
    assert (varied - plain).abs().max() > 1e-4
    torch.testing.assert_close(backend.prepare(source, layout, BackendOptions()).predict(*inputs), plain)
    with pytest.raises(InputError, match="attention=prompt-relay: it is defined for the mask full"):
        backend.prepare(source, layout_of("mask2dit"), relay)
