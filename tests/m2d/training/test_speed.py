from __future__ import annotations

import pytest
import torch

from m2d.layout import SceneLayout
from m2d.training.requirements import Workload, measure_needs
from m2d.training.speed import flops_per_sample, matrix_rate
from tests.m2d.training.conftest import CHANNELS, FRAMES, SIDE, TEXT_TOKENS, tiny_model


def test_operations_are_those_counted_by_tracing_the_model() -> None:
    model = tiny_model()
    config = {name: value for name, value in model.config.items() if not name.startswith("_")}
    layout = SceneLayout.build(
        "mask2dit", text_tokens=[TEXT_TOKENS] * 3, latent_frames=[FRAMES] * 3, tokens_per_frame=4
    )
    work = Workload(
        config=config, layout=layout, latent_shape=(CHANNELS, SIDE, SIDE), batch_size=1, is_mixed=False
    )
    # Tracing counts the last block's prompts, too, and leaves out gradients of the inputs that nobody needs.
    assert flops_per_sample(model, layout) == pytest.approx(measure_needs(work).flops, rel=0.15)


def test_the_matrix_rate_is_measured_once() -> None:
    rate = matrix_rate(torch.device("cpu"), torch.float32)
    assert rate > 1e8
    assert matrix_rate(torch.device("cpu"), torch.float32) == rate
