import pytest
import torch

from benchmarks.baselines.attention import dense_attention, plan_attention
from m2d.layout import SceneLayout


@pytest.mark.parametrize("mask", ["mask2dit", "causal", "anchor", "full"])
def test_the_plan_attends_as_a_dense_mask_does(mask: str) -> None:
    layout = SceneLayout.build(mask, text_tokens=[3, 2], latent_frames=[2, 3], tokens_per_frame=4)
    stream = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, layout.num_tokens, 8, generator=stream) for _ in range(3))
    expected = dense_attention(layout, "cpu")(q, k, v)
    assert (plan_attention(layout, q, k, v) - expected).abs().max() <= 1e-6
