"""LPIPS with AlexNet (Zhang et al. 2018): how different two pictures look.

A function of its weights, which have the names of the Flax port. Shapes: B pictures, C channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m2d.evaluation.frame_measures import LONGEST_SIDE, shrunk
from m2d.evaluation.networks import NETWORKS, load_network

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Stride, padding, and whether the layer before is pooled.
_LAYERS = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
_EPSILON = 1e-10


class Lpips:
    """LPIPS of pictures of at most 256 pixels a side."""

    def __init__(self, *, device: str) -> None:
        """Load the weights from the cache; raises as `load_network`."""
        self.protocol = "lpips-alexnet-256/1"
        self.digest = NETWORKS["lpips"].weights_sha256
        self._weights, self._device = load_network("lpips", device=device), device

    @torch.inference_mode()
    def distance(self, first_HWC: np.ndarray, second_HWC: np.ndarray) -> float:
        """Return the distance of two uint8 RGB pictures of one size."""
        pictures = [shrunk(each, LONGEST_SIDE) for each in (first_HWC, second_HWC)]
        pair_BHWC = torch.from_numpy(np.stack(pictures)).to(self._device).float() / 127.5 - 1
        pair_BCHW = pair_BHWC.permute(0, 3, 1, 2)
        return float(lpips_distance(self._weights, pair_BCHW[:1], pair_BCHW[1:]))


def lpips_distance(weights: Mapping[str, Tensor], first_BCHW: Tensor, second_BCHW: Tensor) -> Tensor:
    """Return the distances of pairs of pictures in [-1, 1], (B,)."""
    distance_B = torch.zeros(len(first_BCHW), device=first_BCHW.device)
    for number, (first, second) in enumerate(
        zip(_features(weights, first_BCHW), _features(weights, second_BCHW), strict=True)
    ):
        difference_BCHW = (_normalized(first) - _normalized(second)).square()
        head_C = weights[f"NetLinLayer_{number}.Conv_0.kernel"].flatten()
        distance_B = distance_B + torch.einsum("bchw,c->bhw", difference_BCHW, head_C).mean((1, 2))
    return distance_B


def _features(weights: Mapping[str, Tensor], picture_BCHW: Tensor) -> list[Tensor]:
    shift, scale = (picture_BCHW.new_tensor(each).view(1, 3, 1, 1) for each in (_SHIFT, _SCALE))
    x = (picture_BCHW - shift) / scale
    found = []
    for number, (stride, padding, is_pooled) in enumerate(_LAYERS):
        x = functional.max_pool2d(x, 3, stride=2) if is_pooled else x
        kernel = weights[f"AlexNet_0.Conv_{number}.kernel"].permute(3, 2, 0, 1)
        bias = weights[f"AlexNet_0.Conv_{number}.bias"]
        x = functional.relu(functional.conv2d(x, kernel, bias, stride=stride, padding=padding))
        found.append(x)
    return found


def _normalized(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + _EPSILON)
