"""ViCLIP (Wang et al. 2023, InternVid): one vector for eight pictures of a shot, and vectors of prompts.

Functions of its weights, which have the published names. The preprocessing is VBench's. Shapes: B videos or
texts, F = 8 frames, N patches or tokens, K heads, D width, C channels, H W pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from m2d.errors import CheckpointError
from m2d.evaluation.clip_texts import ClipTexts
from m2d.evaluation.consistency import Scores
from m2d.evaluation.embedder import Vector
from m2d.files import sha256_file
from m2d.model.checkpoint import load_tensors

WEIGHTS = "model.safetensors"
_VIDEO, _TEXT = "vision_encoder.", "text_encoder."
_HEAD_WIDTH = 64
# Mean and deviation of CLIP's pictures.
_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)

Weights = Mapping[str, Tensor]


class ViCLIP:
    """ViCLIP as an extractor: the middle frames of eight equal parts of a shot."""

    def __init__(self, folder: Path, *, device: str = "cpu", has_texts: bool = False) -> None:
        """Load `model.safetensors` of a folder.

        Args:
            has_texts: Whether prompts are encoded, too, which takes a text encoder and a tokenizer.

        Raises:
            CheckpointError: A file is missing, corrupt, or holds another network.
        """
        path = folder / WEIGHTS
        try:
            tensors = load_tensors(path)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
        needed = {"conv1.weight", "temporal_positional_embedding", "positional_embedding", "proj"}
        self._weights = _part(tensors, _VIDEO, needed, path=path, device=device)
        self._text_weights: Weights = {}
        if has_texts:
            needed = {"token_embedding.weight", "positional_embedding", "ln_final.weight", "text_projection"}
            self._text_weights = _part(tensors, _TEXT, needed, path=path, device=device)
            self._texts = ClipTexts(folder, context=len(self._text_weights["positional_embedding"]))
        self._num_frames = self._weights["temporal_positional_embedding"].shape[1]
        patches = len(self._weights["positional_embedding"]) - 1
        self._side = round(patches**0.5) * self._weights["conv1.weight"].shape[-1]
        self.protocol = f"viclip-{self._num_frames}x{self._side}-vbench/1"
        self.digest = sha256_file(path)
        self.fewest_frames = 1
        self._device = device

    def picks(self, num_frames: int) -> list[int]:
        """Return the frame in the middle of each of eight equal parts."""
        edges = np.linspace(0, num_frames, self._num_frames + 1).astype(int)
        return [int((start + max(stop - 1, start)) // 2) for start, stop in pairwise(edges)]

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame's middle square, scaled as published: bicubic, without smoothing."""
        height, width = frame_HWC.shape[:2]
        scale = self._side / min(height, width)
        sides = [self._side if side == min(height, width) else int(side * scale) for side in (height, width)]
        frame_1CHW = torch.from_numpy(np.array(frame_HWC)).permute(2, 0, 1)[None].float()
        scaled_1CHW = functional.interpolate(frame_1CHW, sides, mode="bicubic", align_corners=False)
        top, left = (round((side - self._side) / 2) for side in sides)
        square_CHW = scaled_1CHW[0, :, top : top + self._side, left : left + self._side]
        return np.ascontiguousarray(square_CHW.clamp(0, 255).round().byte().permute(1, 2, 0).numpy())

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return the features of a shot, (D,)."""
        frames_FHWC = torch.from_numpy(np.stack(prepared)).float() / 255
        mean, deviation = (frames_FHWC.new_tensor(each) for each in (_MEAN, _DEVIATION))
        video_BCFHW = ((frames_FHWC - mean) / deviation).permute(3, 0, 1, 2)[None]
        vector: Vector = viclip_features(self._weights, video_BCFHW.to(self._device))[0].cpu().numpy()
        return vector

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Scores:
        """Return the vectors of prompts, one row each; see `ClipTexts`."""
        return self._texts.encode(
            prompts, lambda ids_BL: viclip_text_features(self._text_weights, ids_BL.to(self._device))
        )


def _part(tensors: Weights, prefix: str, needed: set[str], *, path: Path, device: str) -> dict[str, Tensor]:
    """Return the weights of one encoder in float32; raise CheckpointError if it is not there."""
    weights = {
        name.removeprefix(prefix): value.float().to(device)
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    if needed - weights.keys():
        missing = ", ".join(prefix + name for name in sorted(needed - weights.keys()))
        raise CheckpointError(f"{path}: holds no ViCLIP: missing: {missing}")
    return weights


def viclip_features(weights: Weights, video_BCFHW: Tensor) -> Tensor:
    """Return the features of normalized videos, (B, D).

    Nothing is masked: the published function drops 90 percent of the patches unless it is called for a test.
    """
    patch = weights["conv1.weight"].shape[-1]
    patches_BDFHW = functional.conv3d(video_BCFHW, weights["conv1.weight"], stride=(1, patch, patch))
    positions_ND = weights["positional_embedding"]
    x_BFND = patches_BDFHW.flatten(3).permute(0, 2, 3, 1) + positions_ND[1:]
    x_BFND = x_BFND + weights["temporal_positional_embedding"][:, :, None]
    first_BD = (weights["class_embedding"] + positions_ND[0]).expand(len(video_BCFHW), 1, -1)
    x_BND = _normalized(weights, "ln_pre", torch.cat([first_BD, x_BFND.flatten(1, 2)], dim=1))
    return _normalized(weights, "ln_post", _blocks(weights, x_BND)[:, 0]) @ weights["proj"]


def viclip_text_features(weights: Weights, ids_BL: Tensor) -> Tensor:
    """Return the features of texts, (B, D), at the end token, which has the highest number."""
    x_BND = weights["token_embedding.weight"][ids_BL] + weights["positional_embedding"]
    x_BND = _normalized(weights, "ln_final", _blocks(weights, x_BND, is_causal=True))
    return x_BND[torch.arange(len(ids_BL)), ids_BL.argmax(-1)] @ weights["text_projection"]


def _blocks(weights: Weights, x_BND: Tensor, *, is_causal: bool = False) -> Tensor:
    number = 0
    while f"transformer.resblocks.{number}.ln_1.weight" in weights:
        x_BND = _block(weights, f"transformer.resblocks.{number}", x_BND, is_causal=is_causal)
        number += 1
    return x_BND


def _block(weights: Weights, name: str, x_BND: Tensor, *, is_causal: bool) -> Tensor:
    num_heads = x_BND.shape[-1] // _HEAD_WIDTH
    joined = functional.linear(
        _normalized(weights, f"{name}.ln_1", x_BND),
        weights[f"{name}.attn.in_proj_weight"],
        weights[f"{name}.attn.in_proj_bias"],
    )
    q_BKND, k_BKND, v_BKND = (
        part.view(*part.shape[:2], num_heads, _HEAD_WIDTH).transpose(1, 2) for part in joined.chunk(3, dim=-1)
    )
    attended_BKND = functional.scaled_dot_product_attention(q_BKND, k_BKND, v_BKND, is_causal=is_causal)
    x_BND = x_BND + _linear(weights, f"{name}.attn.out_proj", attended_BKND.transpose(1, 2).flatten(2))
    hidden = _linear(weights, f"{name}.mlp.c_fc", _normalized(weights, f"{name}.ln_2", x_BND))
    return x_BND + _linear(weights, f"{name}.mlp.c_proj", hidden * torch.sigmoid(1.702 * hidden))


def _normalized(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
