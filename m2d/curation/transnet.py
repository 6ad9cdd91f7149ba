"""TransNetV2 (Soucek and Lokoc 2020): the share of a change of shots that begins after each frame.

A function of its weights, which have the names of the PyTorch port. Shapes: T frames, C channels, H W =
27 x 48 pixels, D features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m2d.evaluation.networks import load_network
from m2d.video.cuts import ShownPicture

NETWORK = "transnetv2"
_HEIGHT, _WIDTH = 27, 48
# The network sees windows of 100 frames; the outer quarters are context alone.
_WINDOW, _MARGIN = 100, 25
_THRESHOLD = 0.5
_STACKS, _BLOCKS, _DILATIONS = 3, 2, (1, 2, 4, 8)
# Frames compared with each frame: 50 on each side.
_COMPARED = 101
_EPSILON = 1e-3

Weights = Mapping[str, Tensor]


def find_changes(frames: Iterable[ShownPicture]) -> list[int]:
    """Return the first frame after each change, ascending, at the published threshold.

    A gradual transition is one change, in its middle.

    Raises:
        CheckpointError: The weights are not in the cache.
    """
    weights = _weights()
    shares = np.concatenate([change_shares(weights, window) for window in _windows(frames)] or [np.zeros(0)])
    is_change = np.concatenate([[False], shares > _THRESHOLD])
    # A shot begins with the first frame after a run of changes; padding at the end makes no cut.
    return [int(place) for place in np.flatnonzero(is_change[:-1] & ~is_change[1:])]


@cache
def _weights() -> Weights:
    return load_network(NETWORK, device="cpu")


def _windows(frames: Iterable[ShownPicture]) -> Iterator[np.ndarray]:
    """Yield windows of frames, uint8 RGB THWC, each `_WINDOW - 2 * _MARGIN` frames after the one before.

    The first and the last frame are repeated as context.
    """
    step = _WINDOW - 2 * _MARGIN
    held: list[np.ndarray] = []
    for frame in frames:
        small_HWC = cv2.resize(frame.picture_HWC, (_WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)
        picture_HWC = np.ascontiguousarray(small_HWC[..., ::-1])
        held += [picture_HWC] * (1 if held else 1 + _MARGIN)
        if len(held) == _WINDOW:
            yield np.stack(held)
            held = held[step:]
    # Frames that no window has judged yet.
    left = len(held) - _MARGIN
    while left > 0:
        held = (held + held[-1:] * _WINDOW)[:_WINDOW]
        yield np.stack(held)
        held, left = held[step:], left - step


@torch.inference_mode()
def change_shares(weights: Weights, window_THWC: np.ndarray) -> np.ndarray:
    """Return how likely a change of shots begins at each frame of a window but its margins, (T - 50,)."""
    frames_THWC = torch.from_numpy(window_THWC)
    x = frames_THWC.permute(3, 0, 1, 2)[None].float() / 255
    features = []
    for number in range(_STACKS):
        x = _stack(weights, f"SDDCNN.{number}", x)
        features.append(x.mean((3, 4)))
    joined_TD = x[0].permute(1, 2, 3, 0).flatten(1)
    parts = [_colours(weights, frames_THWC), _likeness(weights, features), joined_TD]
    hidden_TD = functional.relu(_linear(weights, "fc1", torch.cat(parts, dim=1)))
    shares: np.ndarray = _linear(weights, "cls_layer1", hidden_TD)[:, 0].sigmoid().numpy()
    return shares[_MARGIN:-_MARGIN]


def _stack(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Return a stack of dilated blocks with its shortcut, at half the size."""
    first: Tensor | None = None
    for number in range(_BLOCKS):
        block = f"{name}.DDCNN.{number}"
        x = torch.cat([_convolved(weights, f"{block}.Conv3D_{each}", x, each) for each in _DILATIONS], dim=1)
        mean, var, scale, bias = (
            weights[f"{block}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        x = functional.batch_norm(x, mean, var, scale, bias, eps=_EPSILON)
        if number < _BLOCKS - 1:
            x = functional.relu(x)
        first = x if first is None else first
    assert first is not None
    return functional.avg_pool3d(functional.relu(x) + first, (1, 2, 2))


def _convolved(weights: Weights, name: str, x: Tensor, dilation: int) -> Tensor:
    """Return a convolution over the picture, then one over time."""
    x = functional.conv3d(x, weights[f"{name}.layers.0.weight"], padding=(0, 1, 1))
    over_time = weights[f"{name}.layers.1.weight"]
    return functional.conv3d(x, over_time, padding=(dilation, 0, 0), dilation=(dilation, 1, 1))


def _likeness(weights: Weights, features: list[Tensor]) -> Tensor:
    """Return what the cosines of learned features with the frames around say, (T, D)."""
    vectors_TD = _linear(weights, "frame_sim_layer.projection", torch.cat(features, dim=1)[0].T)
    return functional.relu(_linear(weights, "frame_sim_layer.fc", _compared(vectors_TD)))


def _colours(weights: Weights, frames_THWC: Tensor) -> Tensor:
    """Return what the cosines of colour histograms with the frames around say, (T, D); 8 levels a channel."""
    levels = frames_THWC.flatten(1, 2).long() >> 5
    bins = (levels[..., 0] << 6) + (levels[..., 1] << 3) + levels[..., 2]
    counts_TD = torch.zeros(len(bins), 512).scatter_add_(1, bins, torch.ones(bins.shape))
    return functional.relu(_linear(weights, "color_hist_layer.fc", _compared(counts_TD)))


def _compared(vectors_TD: Tensor) -> Tensor:
    """Return the cosines of each frame with those around it, zeros outside the window, (T, 101)."""
    unit_TD = functional.normalize(vectors_TD, dim=1)
    cosines_TT = functional.pad(unit_TD @ unit_TD.T, (_COMPARED // 2, _COMPARED // 2))
    places = torch.arange(len(unit_TD))[:, None] + torch.arange(_COMPARED)
    return cosines_TT.gather(1, places)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
