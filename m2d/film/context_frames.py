"""Frames that no latents give, kept beside a film without loss: what a model is given of footage.

Owns `frames.safetensors` in the run folder. Every scene in it is believed only if its frames have the digest
that the film's provenance tells. P frames, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_safetensors

from m2d.video.digests import frames_digest
from m2d.video.provenance import SceneRecord
from m2d.video.run_folder import run_folder_of

FRAMES = "frames.safetensors"


def kept_frames_bytes(frames: Mapping[int, np.ndarray]) -> bytes:
    """The bytes of `frames.safetensors`: scene of the film, from 0, to its uint8 frames PHWC."""
    data: bytes = save_safetensors(
        {_key(scene): np.ascontiguousarray(part) for scene, part in frames.items()}
    )
    return data


def read_kept_frames(
    film: Path, records: Mapping[int, SceneRecord], *, height: int, width: int
) -> dict[int, np.ndarray]:
    """Read frames of a film back.

    Args:
        film: The film's path.
        records: The scenes that are wanted, as the film's provenance tells of them.
        height: Height of the frames.
        width: Width of the frames.

    Returns:
        Scene to its uint8 frames PHWC; a scene that is not there, or is not what it was, is left out.
    """
    path = run_folder_of(film) / FRAMES
    if not records or not path.is_file():
        return {}
    try:
        with safe_open(path, framework="numpy") as file:
            there = set(file.keys())
            found = {
                scene: file.get_tensor(_key(scene))
                for scene, record in records.items()
                if _key(scene) in there
                # A small claim in the film must not make a large file be read.
                and file.get_slice(_key(scene)).get_shape() == [_num_kept(record), height, width, 3]
            }
    except (SafetensorError, OSError):
        return {}
    return {
        scene: frames_PHWC
        for scene, frames_PHWC in found.items()
        if frames_PHWC.dtype == np.uint8 and frames_digest([frames_PHWC]) == _digest_of(records[scene])
    }


def _num_kept(record: SceneRecord) -> int:
    return record.num_frames if record.clip_frames is None else record.clip_frames


def _digest_of(record: SceneRecord) -> str | None:
    return record.frames_sha256 if record.clip_frames is None else record.clip_sha256


def _key(scene: int) -> str:
    return f"scene_{scene:03d}"
