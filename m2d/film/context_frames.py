"""Lossless frames of external scenes that served as context: `frames.safetensors` in the run folder.

A scene's frames are used only if their digest is the one in the film's provenance. P frames, H height,
W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save as save_safetensors

from m2d.tensor_files import opened_tensors
from m2d.video.digests import array_digest
from m2d.video.provenance import SceneRecord
from m2d.video.run_folder import run_folder_of

FRAMES = "frames.safetensors"


def kept_frames_bytes(frames: Mapping[int, np.ndarray]) -> bytes:
    """Serialize `frames.safetensors` from scene numbers, from 0, and their uint8 frames PHWC."""
    data: bytes = save_safetensors(
        {_key(scene): np.ascontiguousarray(part) for scene, part in frames.items()}
    )
    return data


def read_kept_frames(
    film: Path, records: Mapping[int, SceneRecord], *, height: int, width: int
) -> dict[int, np.ndarray]:
    """Read the context frames of the scenes in `records`: scene number to uint8 frames PHWC.

    Scenes that are missing, or whose digest differs from the record's, are left out.
    """
    path = run_folder_of(film) / FRAMES
    if not records or not path.is_file():
        return {}
    try:
        with opened_tensors(path, "numpy") as file:
            names = set(file.keys())
            found = {
                scene: file.get_tensor(_key(scene))
                for scene, record in records.items()
                if _key(scene) in names
                # Before reading: a wrong file may be of any size.
                and file.get_slice(_key(scene)).get_shape() == [num_context(record), height, width, 3]
            }
    except OSError:
        return {}
    return {
        scene: frames_PHWC
        for scene, frames_PHWC in found.items()
        if frames_PHWC.dtype == np.uint8 and array_digest(frames_PHWC) == _digest_of(records[scene])
    }


def num_context(record: SceneRecord) -> int:
    """Number of frames of a scene that a model is given."""
    return record.num_frames if record.clip_frames is None else record.clip_frames


def _digest_of(record: SceneRecord) -> str | None:
    return record.frames_sha256 if record.clip_frames is None else record.clip_sha256


def _key(scene: int) -> str:
    return f"scene_{scene:03d}"
