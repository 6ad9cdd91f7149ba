"""The reader: a small network that reads every property of a puppet scene back from its frames.

It is how the embedded model is judged: what the prompts asked for, what they never mentioned, and whether one
scene's prompt leaked into another. Shapes: B scenes, P frames, H W pixels. Training lives in `m2d/training/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.puppet.labels import PROMPTED_CLASSES, UNPROMPTED_CLASSES, UNPROMPTED_RANGES

_CLASSES: dict[str, int] = PROMPTED_CLASSES | UNPROMPTED_CLASSES
_WIDTHS = (32, 64, 96, 128)
_HIDDEN = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What the reader saw.

    Attributes:
        classes: Per property the most likely class of each scene, shape (B,).
        numbers: Unprompted numbers scaled to 0..1, shape (B, 4), in the order of UNPROMPTED_RANGES.
    """

    classes: dict[str, Tensor]
    numbers: Tensor


class Reader(nn.Module):
    """Strided convolutions over a scene's frames stacked as channels, then one linear head per property."""

    def __init__(self, *, num_frames: int, height: int, width: int) -> None:
        """Fix the size of the clips to read: P frames of H x W pixels."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3 * num_frames
        for size in _WIDTHS:
            layers += [nn.Conv2d(channels, size, 3, stride=2, padding=1), nn.BatchNorm2d(size), nn.ReLU()]
            channels = size
        cells = (height // 2 ** len(_WIDTHS)) * (width // 2 ** len(_WIDTHS))
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * cells, _HIDDEN), nn.ReLU())
        self.class_heads = nn.ModuleDict(
            {_key(name): nn.Linear(_HIDDEN, size) for name, size in _CLASSES.items()}
        )
        self.number_head = nn.Linear(_HIDDEN, len(UNPROMPTED_RANGES))

    def forward(self, frames_BPCHW: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return class scores per property, each (B, classes), and the unprompted numbers (B, 4).

        Args:
            frames_BPCHW: RGB in 0..1.
        """
        features_BD = self.trunk(frames_BPCHW.flatten(1, 2) - 0.5)
        scores = {name: self.class_heads[_key(name)](features_BD) for name in _CLASSES}
        return scores, self.number_head(features_BD)

    @torch.inference_mode()
    def read(self, frames_BPCHW: Tensor) -> Reading:
        """Return the most likely properties of each scene; frames are RGB in 0..1."""
        scores, numbers = self(frames_BPCHW)
        return Reading(classes={name: score.argmax(-1) for name, score in scores.items()}, numbers=numbers)


def load_reader(path: Path, *, num_frames: int, height: int, width: int) -> Reader:
    """Load the reader's weights for clips of this size, ready to read.

    Raises:
        CheckpointError: The file is missing, damaged or was trained for another size.
    """
    reader = Reader(num_frames=num_frames, height=height, width=width)
    try:
        weights = {
            name: value.float() if value.is_floating_point() else value
            for name, value in load_file(path).items()
        }
        reader.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        size = f"{num_frames} frames of {width}x{height}"
        raise CheckpointError(
            f"{path.name}: not a reader for {size}: {str(error).splitlines()[0]}"
        ) from error
    return reader.eval()


def _key(name: str) -> str:
    # ModuleDict keys cannot hold dots.
    return name.replace(".", "_")
