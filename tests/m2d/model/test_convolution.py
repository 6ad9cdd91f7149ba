"""3-D convolutions by oneDNN: which ones are, that they compute the same, and that others are left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from m2d.model.convolution import OneDnnConvolutions

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def _kernels(convolution: nn.Module, video_BCPHW: torch.Tensor, *, by_onednn: bool) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled, torch.no_grad():
        if by_onednn:
            with OneDnnConvolutions():
                convolution(video_BCPHW)
        else:
            convolution(video_BCPHW)
    return {event.key for event in profiled.key_averages()}


@needs_onednn
def test_a_single_small_clip_is_convolved_by_onednn() -> None:
    convolution, video_BCPHW = nn.Conv3d(8, 8, 3, padding=(0, 1, 1)), torch.randn(1, 8, 6, 24, 36)

    assert "aten::mkldnn_convolution" in _kernels(convolution, video_BCPHW, by_onednn=True)
    # Why this exists: when torch chooses it by itself, the mode can go.
    assert "aten::slow_conv3d_forward" in _kernels(convolution, video_BCPHW, by_onednn=False)


@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
@pytest.mark.parametrize("groups", [1, 4])
@torch.no_grad()
def test_it_computes_the_same(stride: int | tuple[int, int, int], groups: int) -> None:
    torch.manual_seed(3)
    convolution = nn.Conv3d(8, 12, 3, stride=stride, padding=(0, 1, 1), groups=groups)
    video_BCPHW = torch.randn(1, 8, 5, 12, 20)
    expected = convolution(video_BCPHW)

    with OneDnnConvolutions():
        convolved = convolution(video_BCPHW)

    torch.testing.assert_close(convolved, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_onednn_does_not_take_is_left_to_torch() -> None:
    video_BCPHW = torch.randn(1, 4, 3, 8, 8)
    double = nn.Conv3d(4, 4, 3, padding=1).double()
    named = nn.Conv3d(4, 4, 3, padding="same")

    for convolution, clip in ((double, video_BCPHW.double()), (named, video_BCPHW)):
        with OneDnnConvolutions():
            convolved = convolution(clip)
        assert torch.equal(convolved, convolution(clip))
