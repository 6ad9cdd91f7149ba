"""I3D on Kinetics-400 (Carreira and Zisserman 2017): the network whose logits FVD compares.

A function of its weights, which have the names of the Flax port. Shapes: B clips, C channels, T frames, H W
pixels, K = 400 classes.
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

SIDE = 224
# The last pooling spans two of the frames that are left: a shorter clip has no logits.
FEWEST_FRAMES = 9
_MOST_FRAMES = 32
_EPSILON = 1e-3
_MIXED: tuple[tuple[str, ...], ...] = (
    ("Mixed_3b", "Mixed_3c"),
    ("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f"),
    ("Mixed_5b", "Mixed_5c"),
)

Weights = Mapping[str, Tensor]


class I3D:
    """I3D as an extractor: the logits of at most 32 frames at even steps, their middle square at 224."""

    def __init__(self, *, device: str) -> None:
        """Load the weights from the cache; raises as `load_network`."""
        self.protocol = "i3d-kinetics400-logits-32x224crop/1"
        self.digest = NETWORKS["i3d"].weights_sha256
        self.fewest_frames = FEWEST_FRAMES
        self._weights, self._device = load_network("i3d", device=device), device

    def picks(self, num_frames: int) -> list[int]:
        """Return all frames of a short scene, 32 at even steps of a longer one."""
        return spread(num_frames, min(num_frames, _MOST_FRAMES))

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame's middle square at 224 pixels."""
        return centre_crop(frame_HWC, SIDE)

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return the logits, (400,)."""
        frames_THWC = torch.from_numpy(np.stack(prepared)).to(self._device)
        video_BCTHW = frames_THWC.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        vector: Vector = i3d_logits(self._weights, video_BCTHW)[0].cpu().numpy()
        return vector


def i3d_logits(weights: Weights, video_BCTHW: Tensor) -> Tensor:
    """Return the logits averaged over time, (B, K), for frames of 224x224 in [-1, 1].

    Raises:
        ValueError: Fewer than nine frames, or frames of another size.
    """
    if video_BCTHW.shape[2] < FEWEST_FRAMES or video_BCTHW.shape[3:] != (SIDE, SIDE):
        raise ValueError(
            f"clips of shape {tuple(video_BCTHW.shape)}: at least 9 frames of 224x224 are needed"
        )
    x = _unit(weights, "Conv3d_1a_7x7", video_BCTHW, stride=2)
    x = _pooled(x, kernel=(1, 3, 3), stride=(1, 2, 2))
    x = _unit(weights, "Conv3d_2c_3x3", _unit(weights, "Conv3d_2b_1x1", x))
    x = _pooled(x, kernel=(1, 3, 3), stride=(1, 2, 2))
    for number, names in enumerate(_MIXED):
        if number:
            x = _pooled(x, kernel=((3, 3, 3), (2, 2, 2))[number - 1], stride=(2, 2, 2))
        for name in names:
            x = _mixed(weights, name, x)
    x = functional.avg_pool3d(x, (2, 7, 7), stride=1)
    kernel = _kernel(weights, "Logits.Conv3d_0c_1x1")
    logits_BKT11 = functional.conv3d(x, kernel, weights["params.Logits.Conv3d_0c_1x1.Conv_0.bias"])
    return logits_BKT11.mean((2, 3, 4))


def _mixed(weights: Weights, name: str, x: Tensor) -> Tensor:
    branches = [
        _unit(weights, f"{name}.Branch_0.Conv3d_0a_1x1", x),
        _unit(weights, f"{name}.Branch_1.Conv3d_0b_3x3", _unit(weights, f"{name}.Branch_1.Conv3d_0a_1x1", x)),
        _unit(weights, f"{name}.Branch_2.Conv3d_0b_3x3", _unit(weights, f"{name}.Branch_2.Conv3d_0a_1x1", x)),
        _unit(weights, f"{name}.Branch_3.Conv3d_0b_1x1", _pooled(x, kernel=(3, 3, 3), stride=(1, 1, 1))),
    ]
    return torch.cat(branches, dim=1)


def _unit(weights: Weights, name: str, x: Tensor, *, stride: int = 1) -> Tensor:
    """Convolve, normalize without a scale, and apply ReLU."""
    kernel = _kernel(weights, name)
    x = same_padded(x, kernel=kernel.shape[2:], stride=(stride,) * 3)
    x = functional.conv3d(x, kernel, stride=stride)
    mean, var = (weights[f"batch_stats.{name}.BatchNorm_0.{part}"].flatten() for part in ("mean", "var"))
    bias = weights[f"params.{name}.BatchNorm_0.bias"].flatten()
    return functional.relu(functional.batch_norm(x, mean, var, bias=bias, eps=_EPSILON))


def _kernel(weights: Weights, name: str) -> Tensor:
    """Return a kernel with torch's order of axes; Flax puts channels last."""
    return weights[f"params.{name}.Conv_0.kernel"].permute(4, 3, 0, 1, 2)


def _pooled(x: Tensor, *, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    # After ReLU no value is below the zeros of the padding.
    return functional.max_pool3d(same_padded(x, kernel=kernel, stride=stride), kernel, stride=stride)
