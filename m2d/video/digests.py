"""Digests of what a film consists of: frames, latents and text, the same wherever they are made.

Owns what is hashed and in which form; where digests are kept is `provenance`'s.
"""

# P frames, H W height and width, C channels, F latent frames.

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np


def canonical_json(value: object) -> str:
    """JSON that is the same for equal values: sorted keys, no blanks, ASCII only.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def text_digest(text: str) -> str:
    """The sha256 of ASCII text, in hex."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class FramesDigest:
    """The `frames_digest` of one scene whose frames come one after the other."""

    def __init__(self, *, num_frames: int, height: int, width: int) -> None:
        """Expect so many frames of this size."""
        self._digest = hashlib.sha256()
        _add_shape(self._digest, np.dtype(np.uint8), (num_frames, height, width, 3))

    def add(self, frame_HWC: np.ndarray) -> None:
        """Take up the next frame, uint8 RGB."""
        self._digest.update(np.ascontiguousarray(frame_HWC).data)

    def hexdigest(self) -> str:
        """The digest of the frames so far."""
        return self._digest.hexdigest()


def frames_digest(scenes: Sequence[np.ndarray]) -> str:
    """The sha256 over the raw RGB frames of all scenes, in hex.

    Args:
        scenes: uint8 PHWC arrays.
    """
    digest = hashlib.sha256()
    for frames_PHWC in scenes:
        _add_array(digest, frames_PHWC)
    return digest.hexdigest()


def film_digest(scenes: Sequence[str]) -> str:
    """One digest over those of a film's scenes: it grows with the film, and nothing is read again for it."""
    return text_digest("\n".join(scenes))


def latents_digest(latents_FCHW: np.ndarray) -> str:
    """The sha256 over shape, dtype and values of one scene's latents, in hex."""
    digest = hashlib.sha256()
    _add_array(digest, latents_FCHW)
    return digest.hexdigest()


def _add_array(digest: Any, array: np.ndarray) -> None:
    _add_shape(digest, array.dtype, array.shape)
    digest.update(np.ascontiguousarray(array).data)


def _add_shape(digest: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    # Shape and type first: the same bytes in another shape are another film.
    digest.update(f"{dtype.str}{shape}".encode("ascii"))
