"""Enlarge frames of a model to the picture of a film, and reduce pictures of the film to the model's size.

H height, W width, C channels, P frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from PIL import Image

from m2d.fit import FilmFit
from m2d.limits import TALLEST_SMALL_PICTURE
from m2d.video.crop_resize import Cover, Turn, cover
from m2d.video.packets import EncodedScene

LARGEST_CROP = Fraction(1, 4)
"""Largest share of a frame that is cropped to fill the picture; where more would be lost, it has bars."""


def enlarged(frame_HWC: np.ndarray, fit: FilmFit) -> np.ndarray:
    """Scale a frame of the model to the film's picture, uint8 RGB, with the Lanczos filter."""
    height, width = frame_HWC.shape[:2]
    if _is_cropped(fit, height=height, width=width):
        return _cover(fit, height=height, width=width).apply(frame_HWC)
    inner_width, inner_height = _inside(fit, height=height, width=width)
    inner = Image.fromarray(frame_HWC).resize((inner_width, inner_height), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (fit.width, fit.height))
    picture.paste(inner, ((fit.width - inner_width) // 2, (fit.height - inner_height) // 2))
    return np.asarray(picture)


def reduction(fit: FilmFit, *, height: int, width: int) -> Cover:
    """Return how a picture of the film is cropped and scaled to a frame of the model, without bars."""
    return cover(
        width=fit.width,
        height=fit.height,
        pixel_aspect=fit.pixel_aspect,
        turn=Turn(),
        target_width=width,
        target_height=height,
    )


def model_frames(
    scene: EncodedScene, fit: FilmFit, *, num_frames: int, height: int, width: int
) -> np.ndarray:
    """Decode the last frames of a film's scene at the size and rate of the model, uint8 RGB PHWC."""
    shape = reduction(fit, height=height, width=width)
    wanted = fit.film_frames(num_frames, num_shown=len(scene))
    return np.stack([shape.apply(picture_HWC) for picture_HWC in scene.picked(wanted, upscale=1)])


def thumbnails(pictures: Sequence[np.ndarray], fit: FilmFit, *, width: int) -> list[np.ndarray]:
    """Reduce pictures of the film to a width, with square pixels; narrow ones to a height."""
    shape = fit.height / (fit.width * fit.pixel_aspect)
    height = max(round(width * min(shape, Fraction(TALLEST_SMALL_PICTURE))), 1)
    width = max(round(height / shape), 1) if shape > TALLEST_SMALL_PICTURE else width
    return [
        np.asarray(Image.fromarray(picture_HWC).resize((width, height), Image.Resampling.LANCZOS))
        for picture_HWC in pictures
    ]


def describe_fit(fit: FilmFit, *, height: int, width: int) -> str:
    """Describe how new scenes become part of the film."""
    size = f"new scenes are scaled from {width}x{height} to {fit.width}x{fit.height} pixels"
    lost = 1 - _kept_share(fit, height=height, width=width)
    cropped = f", {float(lost):.0%} cropped" if lost > Fraction(1, 200) else ""
    how = cropped if _is_cropped(fit, height=height, width=width) else ", with black bars"
    return f"{size}{how}, and shown at {float(fit.fps):.4g} frames per second"


def _kept_share(fit: FilmFit, *, height: int, width: int) -> Fraction:
    ratio = Fraction(width, height) / (Fraction(fit.width, fit.height) * fit.pixel_aspect)
    return min(ratio, 1 / ratio)


def _is_cropped(fit: FilmFit, *, height: int, width: int) -> bool:
    return 1 - _kept_share(fit, height=height, width=width) <= LARGEST_CROP


def _cover(fit: FilmFit, *, height: int, width: int) -> Cover:
    return cover(
        width=width,
        height=height,
        # The film's pixels take the aspect; the model's are square.
        pixel_aspect=1 / fit.pixel_aspect,
        turn=Turn(),
        target_width=fit.width,
        target_height=fit.height,
    )


def _inside(fit: FilmFit, *, height: int, width: int) -> tuple[int, int]:
    """Return the width and height, in pixels of the film, of a whole frame of the model."""
    scale = min(Fraction(fit.width) * fit.pixel_aspect / width, Fraction(fit.height, height))
    return max(round(width * scale / fit.pixel_aspect), 1), max(round(height * scale), 1)
