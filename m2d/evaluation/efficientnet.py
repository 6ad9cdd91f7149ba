"""EfficientNet-Lite0 on ImageNet (Tan and Le 2019): the embedding of a scene's pictures.

A function of its weights, which have the names of the PyTorch port. Shapes: B pictures, C channels, H W
pixels, D = 1280 features, K = 1000 classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m2d.evaluation.embedder import Vector, spread
from m2d.evaluation.networks import NETWORKS, load_network
from m2d.evaluation.padding import same_padded
from m2d.evaluation.pictures import centre_crop

NUM_FEATURES = 1280
_SIDE, _NUM_FRAMES = 224, 8
_EPSILON = 1e-3
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Blocks that halve the picture.
_HALVING = frozenset({1, 3, 5, 11})
_NUM_BLOCKS = 16

Weights = Mapping[str, Tensor]


class EfficientNet:
    """EfficientNet-Lite0 as an extractor: 8 frames, centre crop of 224; mean features, then mean logits."""

    def __init__(self, *, device: str) -> None:
        """Load the weights from the cache; raises as `load_network`."""
        self.protocol = "efficientnet-lite0-8x224crop/1"
        self.digest = NETWORKS["efficientnet"].weights_sha256
        self.fewest_frames = 1
        self._weights, self._device = load_network("efficientnet", device=device), device

    def picks(self, num_frames: int) -> list[int]:
        """Return eight frames at even steps."""
        return spread(num_frames, _NUM_FRAMES)

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame's middle square at 224 pixels."""
        return centre_crop(frame_HWC, _SIDE)

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return features and logits, (D + K,)."""
        pictures_BHWC = torch.from_numpy(np.stack(prepared)).to(self._device).float() / 255
        mean, deviation = (pictures_BHWC.new_tensor(each) for each in (_MEAN, _DEVIATION))
        features_BD = efficientnet_features(
            self._weights, ((pictures_BHWC - mean) / deviation).permute(0, 3, 1, 2)
        )
        logits_BK = functional.linear(features_BD, self._weights["_fc.weight"], self._weights["_fc.bias"])
        vector: Vector = torch.cat([features_BD, logits_BK], dim=1).mean(0).cpu().numpy()
        return vector


def efficientnet_features(weights: Weights, pictures_BCHW: Tensor) -> Tensor:
    """Return the features before the classifier, (B, D), of pictures normalized as for ImageNet."""
    x = functional.relu6(
        _normalized(weights, "_bn0", _convolved(weights, "_conv_stem", pictures_BCHW, stride=2))
    )
    for number in range(_NUM_BLOCKS):
        x = _block(weights, f"_blocks.{number}", x, stride=2 if number in _HALVING else 1)
    x = functional.relu6(_normalized(weights, "_bn1", _convolved(weights, "_conv_head", x)))
    return x.mean((2, 3))


def _block(weights: Weights, name: str, x: Tensor, *, stride: int) -> Tensor:
    """Return the result of an inverted bottleneck; it is added to its input where both have one shape."""
    given = x
    if f"{name}._expand_conv.weight" in weights:
        x = functional.relu6(
            _normalized(weights, f"{name}._bn0", _convolved(weights, f"{name}._expand_conv", x))
        )
    x = _convolved(weights, f"{name}._depthwise_conv", x, stride=stride)
    x = functional.relu6(_normalized(weights, f"{name}._bn1", x))
    x = _normalized(weights, f"{name}._bn2", _convolved(weights, f"{name}._project_conv", x))
    return x + given if x.shape == given.shape else x


def _convolved(weights: Weights, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    kernel = weights[f"{name}.weight"]
    x = same_padded(x, kernel=kernel.shape[2:], stride=(stride, stride))
    return functional.conv2d(x, kernel, stride=stride, groups=x.shape[1] // kernel.shape[1])


def _normalized(weights: Weights, name: str, x: Tensor) -> Tensor:
    mean, var, scale, bias = (
        weights[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(x, mean, var, scale, bias, eps=_EPSILON)
