"""CLIP, DINO and VideoMAE, from a folder in the layout of transformers.

Owns which classes are loaded: those named here, never code of the folder.
Shapes: B pictures, L tokens, D features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from m2d.errors import CheckpointError
from m2d.evaluation.clip_texts import ClipTexts
from m2d.evaluation.consistency import Scores
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
    "videomae": ("VideoMAEModel", "VideoMAEImageProcessorPil"),
}
TYPES = {
    "clip": ("clip",),
    "dino": ("dinov2", "dinov2_with_registers", "vit"),
    "videomae": ("videomae",),
}
"""Allowed `model_type` of a folder by the embedder's name; the first DINO is a `vit`."""


class HubNetwork:
    """One of these networks as an extractor.

    The vector of a scene is the mean over eight frames at even steps or, for VideoMAE, over the patches of as
    many frames as it was trained on.
    """

    def __init__(self, name: str, folder: Path, *, device: str = "cpu", has_texts: bool = False) -> None:
        """Load model and processor of a folder.

        Args:
            has_texts: Whether prompts are encoded, too: CLIP alone.

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
        self._model.eval().to(device)
        self._device, self._kind = device, kind
        self._num_frames = self._model.config.num_frames if kind == "videomae" else _NUM_FRAMES
        self.protocol = f"{kind}-{self._num_frames}/1"
        self.fewest_frames = 1
        if has_texts:
            context = self._model.config.text_config.max_position_embeddings
            self._texts = ClipTexts(folder, context=context)

    def picks(self, num_frames: int) -> list[int]:
        """Return frames at even steps."""
        return spread(num_frames, self._num_frames)

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame as the folder's processor prepares it, float32 CHW."""
        pictures = np.asarray(self._processor(frame_HWC, return_tensors="np")["pixel_values"], np.float32)
        return pictures.reshape(pictures.shape[-3:])

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return the features of a scene, (D,); of pictures, the mean of their unit vectors."""
        pictures = torch.from_numpy(np.stack(prepared)).to(self._device)
        if self._kind == "videomae":
            mean_D = self._model(pixel_values=pictures[None]).last_hidden_state[0].mean(0)
            return np.asarray(mean_D.cpu().numpy(), np.float32)
        if self._kind == "clip":
            pooled_BD = self._model.vision_model(pixel_values=pictures).pooler_output
            vectors_BD = self._model.visual_projection(pooled_BD)
        else:
            vectors_BD = self._model(pixel_values=pictures).last_hidden_state[:, 0]
        return np.asarray(normalize(vectors_BD, dim=-1).mean(0).cpu().numpy(), np.float32)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Scores:
        """Return CLIP's vectors of prompts, one row each; see `ClipTexts`."""
        return self._texts.encode(prompts, self._text_features)

    def _text_features(self, ids_BL: Tensor) -> Tensor:
        pooled_BD = self._model.text_model(input_ids=ids_BL.to(self._device)).pooler_output
        vectors_BD: Tensor = self._model.text_projection(pooled_BD)
        return vectors_BD


def _model_type(folder: Path) -> str:
    path = folder / "config.json"
    try:
        document = json.loads(read_text(path, limit_bytes=_MOST_BYTES))
        return str(document["model_type"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read, or names no model_type: {error}") from error
