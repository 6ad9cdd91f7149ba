"""How scenes of a model fit a film of another size and rate: an external video that keeps its own."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from m2d.geometry import SceneGeometry

# Measured on H.264 films of the puppet theatre, which need between a third and three times as much.
BYTES_PER_WRITTEN_PIXEL = 0.05
_CONTAINER_BYTES = 8_000

FitChoice = Literal["film", "model"]
"""`film` keeps an external video's size and rate, and scales new scenes; `model` converts the video."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmFit:
    """Picture and rate of such a film.

    Attributes:
        width: Width of the film in pixels; even, as the height is.
        pixel_aspect: Width of a pixel over its height.
        fps: Frames of the film per second.
        model_fps: Frames of the model per second.
    """

    width: int
    height: int
    pixel_aspect: Fraction
    fps: Fraction
    model_fps: int

    def num_shown(self, num_frames: int) -> int:
        """Number of film frames that show `num_frames` frames of the model."""
        return max(round(num_frames * self.fps / self.model_fps), 1)

    def model_frame(self, index: int, *, num_frames: int) -> int:
        """Return which of a scene's `num_frames` model frames film frame `index` of the scene shows."""
        return min(int(index * self.model_fps / self.fps), num_frames - 1)

    def film_frames(self, num_frames: int, *, num_shown: int) -> list[int]:
        """Return the film frames, of the `num_shown` of a scene, that a model is given as its `num_frames`.

        They end with the last one; the first is repeated where there are too few.
        """
        steps = [round(number * self.fps / self.model_fps) for number in range(num_frames)]
        return [max(num_shown - 1 - step, 0) for step in reversed(steps)]


def predicted_size_bytes(num_frames: int, shape: SceneGeometry, upscale: int, *, fit: FilmFit | None) -> int:
    """Predict the size of a film whose scenes are enlarged by `upscale`, or fitted."""
    area = shape.height * shape.width * upscale**2 if fit is None else fit.height * fit.width
    return _CONTAINER_BYTES + round(num_frames * area * BYTES_PER_WRITTEN_PIXEL)
