import pytest
import torch

from benchmarks.baselines import attention
from benchmarks.baselines.attention import PlannedAttention, dense_attention
from m2d.layout import SceneLayout


@pytest.mark.parametrize("mask", ["mask2dit", "causal", "anchor", "full"])
def test_the_plan_attends_as_a_dense_mask_does(mask: str) -> None:
    layout = SceneLayout.build(mask, text_tokens=[3, 2], latent_frames=[2, 3], tokens_per_frame=4)
    stream = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, layout.num_tokens, 8, generator=stream) for _ in range(3))
    expected = dense_attention(layout, "cpu")(q, k, v)
    planned = torch.cat(PlannedAttention(layout, q, k, v).all_segments(), dim=1).transpose(1, 2)
    assert (planned - expected).abs().max() <= 1e-6


def test_a_mask_too_large_for_32_bits_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = SceneLayout.build("mask2dit", text_tokens=[3, 2], latent_frames=[2, 3], tokens_per_frame=4)
    stream = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, layout.num_tokens, 8, generator=stream) for _ in range(3))
    mask_LL = torch.from_numpy(layout.dense())
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_LL)
    monkeypatch.setattr(attention, "_MOST_MASK_ENTRIES", 450)
    assert (dense_attention(layout, "cpu")(q, k, v) - expected).abs().max() <= 1e-6


def test_video_alone_is_attention_without_the_texts() -> None:
    layout = SceneLayout.build("mask2dit", text_tokens=[3, 2], latent_frames=[2, 3], tokens_per_frame=4)
    stream = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, layout.num_tokens, 8, generator=stream) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(*(x[:, :, 5:] for x in (q, k, v)))
    alone = PlannedAttention(layout, q, k, v).video_alone().transpose(1, 2)
    assert (alone - expected).abs().max() <= 1e-6
