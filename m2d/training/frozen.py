"""The frozen parts of a model folder that training needs: codec, text encoder, noise schedule.

Owns their loading and the digest that latent caches are keyed by; the transformer is not read here.
"""

# B batch, P pixel frames, F latent frames, C channels, H W height and width, L tokens, D width

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5EncoderModel

from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import CheckpointError
from m2d.files import sha256_file
from m2d.model.codec import encode_scenes, spatial_compression

PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
_CLIPS_AT_ONCE = 16
_PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenParts:
    """Everything of a model but its transformer.

    Attributes:
        codec: The VAE.
        text_encoder: The T5 encoder.
        tokenizer: Its tokenizer.
        schedule: Noise levels.
        max_text_tokens: Tokens that prompts are padded to.
        digest: Identity of codec, text encoder and tokenizer.
    """

    codec: AutoencoderKLCogVideoX
    text_encoder: T5EncoderModel
    tokenizer: PreTrainedTokenizerBase
    schedule: VelocitySchedule
    max_text_tokens: int
    digest: str

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return int(self.codec.config.latent_channels)

    @property
    def text_width(self) -> int:
        """Width of a prompt token's embedding."""
        return int(self.text_encoder.config.d_model)

    @property
    def compression(self) -> tuple[int, int]:
        """Pixels per latent along height and width, and frames per latent frame."""
        return spatial_compression(self.codec), int(self.codec.config.temporal_compression_ratio)

    def encode_frames(self, frames_BPCHW: Tensor) -> Tensor:
        """Encode clips, one by one: float frames in [-1, 1] to scaled latents BFCHW."""
        parts = torch.split(frames_BPCHW, _CLIPS_AT_ONCE)
        return torch.cat([encode_scenes(self.codec, part).cpu() for part in parts])

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to embeddings BLD, padded and without an attention mask, as CogVideoX does.

        Raises:
            CheckpointError: A prompt is longer than `max_text_tokens`; none is ever cut.
        """
        parts = []
        for start in range(0, len(prompts), _PROMPTS_AT_ONCE):
            ids_BL = self._tokenize(prompts[start : start + _PROMPTS_AT_ONCE])
            parts.append(self.text_encoder(input_ids=ids_BL).last_hidden_state.cpu())
        return torch.cat(parts)

    def _tokenize(self, prompts: Sequence[str]) -> Tensor:
        encoded = self.tokenizer(
            list(prompts), padding="max_length", max_length=self.max_text_tokens, return_tensors=None
        )
        for prompt, ids in zip(prompts, encoded["input_ids"], strict=True):
            if len(ids) > self.max_text_tokens:
                raise CheckpointError(
                    f"caption of {len(ids)} tokens, at most {self.max_text_tokens} are allowed: {prompt!r}; "
                    "raise transformer.max_text_tokens or shorten the caption"
                )
        return torch.tensor(encoded["input_ids"], device=self.text_encoder.device)


def load_frozen(folder: Path, *, max_text_tokens: int, device: torch.device) -> FrozenParts:
    """Load codec, text encoder, tokenizer and noise schedule of a model folder, local files only.

    Raises:
        CheckpointError: A part is missing or cannot be read.
    """
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"{folder}: has no {', '.join(missing)}; give a model folder in diffusers layout"
        )
    codec: AutoencoderKLCogVideoX = AutoencoderKLCogVideoX.from_pretrained(
        folder / "vae", local_files_only=True, use_safetensors=True
    )
    text_encoder: T5EncoderModel = T5EncoderModel.from_pretrained(
        folder / "text_encoder", local_files_only=True, use_safetensors=True
    )
    scheduler = CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    return FrozenParts(
        codec=codec.float().to(device).eval().requires_grad_(False),
        text_encoder=text_encoder.float().to(device).eval().requires_grad_(False),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        schedule=VelocitySchedule.from_scheduler(scheduler),
        max_text_tokens=max_text_tokens,
        digest=_digest(folder, max_text_tokens=max_text_tokens),
    )


def _digest(folder: Path, *, max_text_tokens: int) -> str:
    digest = hashlib.sha256(f"{max_text_tokens}\n".encode())
    for part in ("vae", "text_encoder", "tokenizer"):
        for path in sorted(file for file in (folder / part).rglob("*") if file.is_file()):
            digest.update(f"{path.relative_to(folder)} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
