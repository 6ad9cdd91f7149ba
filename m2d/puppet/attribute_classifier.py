"""The attribute classifier: a small network that reads every property of a puppet scene from its frames.

The embedded model is judged with it: whether scenes show what their prompts ask for, whether they agree on
what no prompt mentions, and whether one scene's prompt leaks into another scene. `training/` trains it.

Shapes: B scenes, P frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from m2d.errors import CheckpointError
from m2d.model.checkpoint import load_tensors
from m2d.puppet.labels import (
    ABSENT,
    PROMPTED_CLASSES,
    UNPROMPTED_CLASSES,
    UNPROMPTED_RANGES,
    class_labels,
    unprompted_numbers,
)
from m2d.puppet.render import Clip

CLASSIFIER_FILE = "reader.safetensors"
"""The classifier's weights in the embedded model's folder."""
_CLASSES: dict[str, int] = PROMPTED_CLASSES | UNPROMPTED_CLASSES
_WIDTHS = (32, 64, 96, 128)
_HIDDEN = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The attributes that the classifier read.

    Attributes:
        classes: Per property, the most likely class of each scene, shape (B,).
        numbers: Unprompted numbers scaled to 0..1, shape (B, 4), in the order of UNPROMPTED_RANGES.
    """

    classes: dict[str, Tensor]
    numbers: Tensor


class AttributeClassifier(nn.Module):
    """Strided convolutions over a scene's frames stacked as channels, then one linear head per property.

    Attributes:
        size: Frames, height and width of its training clips; larger clips are shrunk to that size.
    """

    size: Tensor

    def __init__(self, *, num_frames: int, height: int, width: int) -> None:
        """Build the network for clips of P frames of H x W pixels, with random weights."""
        super().__init__()
        self.register_buffer("size", torch.tensor([num_frames, height, width]))
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
        return self.judge(self.features(frames_BPCHW))

    def features(self, frames_BPCHW: Tensor) -> Tensor:
        """Return the features before the heads, (B, 256); as `forward` otherwise."""
        features_BD: Tensor = self.trunk(frames_BPCHW.flatten(1, 2) - 0.5)
        return features_BD

    def judge(self, features_BD: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return what `forward` returns, from `features`."""
        scores = {name: self.class_heads[_key(name)](features_BD) for name in _CLASSES}
        return scores, self.number_head(features_BD)

    @torch.inference_mode()
    def read(self, frames_BPCHW: Tensor) -> Reading:
        """Return the most likely properties of each scene.

        Args:
            frames_BPCHW: RGB in 0..1, of a size that `can_read`.
        """
        scores, numbers = self(self.shrunk(frames_BPCHW))
        return Reading(classes={name: score.argmax(-1) for name, score in scores.items()}, numbers=numbers)

    def can_read(self, *, num_frames: int, height: int, width: int) -> bool:
        """Whether clips of this size can be shrunk to its own: same aspect, whole multiple of frame steps."""
        own_frames, _, _ = self.own_size()
        is_long_enough = num_frames >= own_frames and (num_frames - 1) % max(own_frames - 1, 1) == 0
        return is_long_enough and self.can_read_frames(height=height, width=width)

    def can_read_frames(self, *, height: int, width: int) -> bool:
        """Whether frames of this size can be shrunk to its own: same aspect, not smaller."""
        _, own_height, own_width = self.own_size()
        return height * own_width == width * own_height and height >= own_height

    def shrunk(self, frames_BPCHW: Tensor) -> Tensor:
        """Shrink clips to the classifier's own size.

        Frames are taken at even steps, including the first and the last; pixels are averaged over areas.

        Args:
            frames_BPCHW: RGB in 0..1, of a size that `can_read`.
        """
        num_frames, height, width = self.own_size()
        if frames_BPCHW.shape[1] > num_frames:
            places_P = torch.linspace(0, frames_BPCHW.shape[1] - 1, num_frames).round().long()
            frames_BPCHW = frames_BPCHW[:, places_P]
        if frames_BPCHW.shape[-2:] == (height, width):
            return frames_BPCHW
        small = functional.interpolate(frames_BPCHW.flatten(0, 1), (height, width), mode="area")
        return small.view(*frames_BPCHW.shape[:3], height, width)

    def own_size(self) -> tuple[int, int, int]:
        num_frames, height, width = (int(number) for number in self.size)
        return num_frames, height, width


def load_classifier(path: Path, *, num_frames: int, height: int, width: int) -> AttributeClassifier:
    """Load the classifier's weights for clips of this size, in evaluation mode.

    Raises:
        CheckpointError: The file is missing or corrupt, or the classifier cannot read this size.
    """
    wanted = f" for {num_frames} frames of {width}x{height}"
    reader = read_classifier(path, wanted=wanted)
    if not reader.can_read(num_frames=num_frames, height=height, width=width):
        own_frames, own_height, own_width = reader.own_size()
        raise CheckpointError(
            f"{path.name}: not an attribute classifier{wanted}: it reads {own_frames} frames of "
            f"{own_width}x{own_height}, and larger clips of that shape with a multiple of the frame steps"
        )
    return reader


def read_classifier(path: Path, *, wanted: str = "") -> AttributeClassifier:
    """Load the classifier's weights, whatever size it reads, in evaluation mode.

    Args:
        wanted: Words for the message about an unusable file, such as ` for 9 frames of 64x64`.

    Raises:
        CheckpointError: The file is missing, corrupt, or of another network.
    """
    try:
        weights = {
            name: value.float() if value.is_floating_point() else value
            for name, value in load_tensors(path).items()
        }
        own_frames, own_height, own_width = weights["size"].tolist()
        reader = AttributeClassifier(num_frames=own_frames, height=own_height, width=own_width)
        reader.load_state_dict(weights)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path.name}: not an attribute classifier{wanted}: {str(error).splitlines()[0]}"
        ) from error
    return reader.eval()


def _key(name: str) -> str:
    # ModuleDict keys cannot hold dots.
    return name.replace(".", "_")


def reading_accuracy(clips: Sequence[Clip], reading: Reading) -> dict[str, float]:
    """Return the share of correct classes per property, both actors counted together.

    Actors off stage count in `on_stage` alone.

    Raises:
        ValueError: The reading is of another number of clips.
    """
    _check_length(clips, reading)
    right: dict[str, int] = {}
    shown: dict[str, int] = {}
    for column, label in class_labels(list(clips)).items():
        name = column.rpartition(".")[2]
        is_shown = label != ABSENT
        is_right = (reading.classes[column].cpu() == label) & is_shown
        right[name] = right.get(name, 0) + int(is_right.sum())
        shown[name] = shown.get(name, 0) + int(is_shown.sum())
    return {name: right[name] / shown[name] for name in right if shown[name]}


def reading_errors(clips: Sequence[Clip], reading: Reading) -> dict[str, float]:
    """Return the mean absolute error of each unprompted number, as a share of its range.

    Raises:
        ValueError: The reading is of another number of clips.
    """
    _check_length(clips, reading)
    errors_V = (reading.numbers.cpu() - unprompted_numbers(list(clips))).abs().mean(0)
    return {name: float(errors_V[index]) for index, name in enumerate(UNPROMPTED_RANGES)}


def _check_length(clips: Sequence[Clip], reading: Reading) -> None:
    if len(reading.numbers) != len(clips):
        raise ValueError(f"a reading of {len(reading.numbers)} scenes for {len(clips)} clips")
