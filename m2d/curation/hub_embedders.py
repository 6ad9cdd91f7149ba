"""The picture encoders of CLIP and DINO, from a folder in the layout of transformers.

Owns which classes are loaded: those named here, never code of the folder. Shapes: B pictures, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2d.errors import CheckpointError
from m2d.evaluation.embedder import Vector, spread
from m2d.files import sha256_file
from m2d.reading import read_text
from m2d.tensor_files import read_header

_WEIGHTS = "model.safetensors"
_NUM_FRAMES = 8
_MOST_BYTES = 1 << 20
# Model, and the processor that reads preprocessor_config.json without torchvision.
_CLASSES = {
    "clip": ("CLIPModel", "CLIPImageProcessorPil"),
    "dinov2": ("Dinov2Model", "BitImageProcessorPil"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", "BitImageProcessorPil"),
    "vit": ("ViTModel", "ViTImageProcessorPil"),
}
TYPES = {"clip": ("clip",), "dino": ("dinov2", "dinov2_with_registers", "vit")}
"""Allowed `model_type` of a folder by the embedder's name; the first DINO is a `vit`."""


class HubPictures:
    """CLIP or DINO as an extractor: the mean vector of eight frames at even steps."""

    def __init__(self, name: str, folder: Path) -> None:
        """Load model and processor of a folder.

        Raises:
            CheckpointError: It is no such model, or its files are missing or corrupt.
        """
        import transformers

        kind = _model_type(folder)
        if kind not in TYPES[name]:
            raise CheckpointError(f"{folder}: is a {kind!r}; {name} reads {', '.join(TYPES[name])}")
        model, processor = (getattr(transformers, each) for each in _CLASSES[kind])
        given: dict[str, Any] = {"local_files_only": True}
        try:
            read_header(folder / _WEIGHTS)
            self._processor = processor.from_pretrained(folder, **given)
            self._model, report = model.from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **given
            )
            self.digest = sha256_file(folder / _WEIGHTS)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{folder}: cannot be loaded as {name}: {first}") from error
        # transformers fills such weights with random numbers.
        lacking = sorted(str(each) for name in ("missing_keys", "mismatched_keys") for each in report[name])
        if lacking:
            raise CheckpointError(f"{folder}: lacks weights of {name}: {lacking[0]}")
        self._model.eval()
        self._is_clip = kind == "clip"
        self.protocol = f"{kind}-{_NUM_FRAMES}/1"
        self.fewest_frames = 1

    def picks(self, num_frames: int) -> list[int]:
        """Return eight frames at even steps."""
        return spread(num_frames, _NUM_FRAMES)

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame as the folder's processor prepares it, float32 CHW."""
        pictures: np.ndarray = self._processor(frame_HWC, return_tensors="np")["pixel_values"]
        return np.asarray(pictures[0], dtype=np.float32)

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return the mean of the frames' unit vectors, (D,)."""
        pictures = torch.from_numpy(np.stack(prepared))
        if self._is_clip:
            pooled_BD = self._model.vision_model(pixel_values=pictures).pooler_output
            vectors_BD = self._model.visual_projection(pooled_BD)
        else:
            vectors_BD = self._model(pixel_values=pictures).last_hidden_state[:, 0]
        vector: Vector = torch.nn.functional.normalize(vectors_BD, dim=-1).mean(0).numpy()
        return vector


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        document = json.loads(read_text(path, limit_bytes=_MOST_BYTES))
        return str(document["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read, or names no model_type: {error}") from error
