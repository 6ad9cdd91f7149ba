"""Digests of a film's frames, latents and text, the same on every machine."""

# P frames, H W height and width, C channels, F latent frames.

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import numpy as np


def canonical_json(value: object) -> str:
    """Write JSON that is the same for equal values: sorted keys, no blanks, ASCII only.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def text_digest(text: str) -> str:
    """Return the sha256 of ASCII text, in hex."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class FramesDigest:
    """The `array_digest` of one scene whose frames arrive one by one."""

    def __init__(self, *, num_frames: int, height: int, width: int) -> None:
        self._digest = hashlib.sha256()
        _add_shape(self._digest, np.dtype(np.uint8), (num_frames, height, width, 3))

    def add(self, frame_HWC: np.ndarray) -> None:
        """Add the next frame, uint8 RGB."""
        self._digest.update(np.ascontiguousarray(frame_HWC).data)

    def hexdigest(self) -> str:
        """Return the digest of the frames so far, in hex."""
        return self._digest.hexdigest()


def array_digest(array: np.ndarray) -> str:
    """Return the sha256 over dtype, shape and values: of a scene's uint8 frames PHWC or its latents FCHW."""
    digest = hashlib.sha256()
    _add_shape(digest, array.dtype, array.shape)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def film_digest(scenes: Iterable[str]) -> str:
    """Return one digest over those of a film's scenes, so that adding a scene reads no other again."""
    return text_digest("\n".join(scenes))


def _add_shape(digest: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    # Shape and dtype count: the same bytes in another shape are another film.
    digest.update(f"{dtype.str}{shape}".encode("ascii"))
