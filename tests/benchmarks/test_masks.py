from __future__ import annotations

import random

import pytest
import torch

from benchmarks.masks import (
    HEAD_DIM,
    HEADS,
    MEASURED_MASKS,
    TOLERANCE,
    attend_dense,
    make_attention,
    measure,
    random_layout,
)
from m2d.layout import SceneLayout


@pytest.mark.parametrize("mask", MEASURED_MASKS)
def test_plan_attends_as_the_dense_mask_does(mask: str) -> None:
    figures = measure(mask, num_layouts=3)
    assert figures.max_abs_error <= TOLERANCE
    assert figures.max_abs_error_targets <= TOLERANCE


def test_oracle_tells_masks_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    layout = random_layout("mask2dit", random.Random(0))
    other = SceneLayout.build(
        "causal",
        text_tokens=layout.text_tokens,
        latent_frames=layout.latent_frames,
        tokens_per_frame=layout.tokens_per_frame,
    )
    attention = make_attention()
    tokens_BLD = torch.randn(1, layout.num_tokens, HEADS * HEAD_DIM, generator=generator)
    angles_VR = torch.rand(layout.num_video_tokens, HEAD_DIM // 2, generator=generator)
    outputs = [
        attend_dense(attention, tokens_BLD, layout=each, angles_VR=angles_VR) for each in (layout, other)
    ]
    assert (outputs[0] - outputs[1]).abs().max() > 0.01
