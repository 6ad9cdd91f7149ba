"""The frozen parts of a model folder that training needs: VAE, text encoder, noise schedule.

Owns the digests that latent caches are keyed by, and encoding in batches; does not read the transformer.
"""

# B batch, S prompts, P pixel frames, F latent frames, C channels, H W height and width, L tokens, D width

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.families.loading import check_components, load_scheduler, load_text, load_tokenizer, load_vae
from m2d.files import sha256_file
from m2d.model.components import read_config
from m2d.model.finite import check_finite

if TYPE_CHECKING:
    from m2d.families.family import SceneVae, TextEncoder

_VAE_PARTS = ("vae",)
_TEXT_PARTS = ("text_encoder", "tokenizer")
_KEYED_PARTS = (*_VAE_PARTS, *_TEXT_PARTS)
FROZEN_PARTS = (*_KEYED_PARTS, "scheduler")
# On a CPU, larger batches overflow the caches: 25 ms per clip of 9 x 64 x 64 at 8, 35 ms at 16 (one thread).
# A GPU would idle with 8 clips; its limit is memory, so its batch is counted in pixels.
_CLIPS_AT_ONCE = 8
_PIXELS_AT_ONCE = 2**23
_PROMPTS_AT_ONCE = 64
# The keys of a scheduler's config that decide the noise levels; the others are for sampling.
_NOISE_KEYS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("rescale_betas_zero_snr", "snr_shift_scale"),
)


class LateTextEncoder:
    """The text encoder of a model folder, loaded with the first prompt after every `release`.

    CogVideoX's text encoder has 4.8 billion weights and is idle once every prompt is encoded.
    """

    def __init__(self, folder: Path, *, max_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        """Read tokenizer and config. Raises: as `load_tokenizer` and `read_config`."""
        self._folder, self._max_tokens, self._device, self._dtype = folder, max_tokens, device, dtype
        self._tokenizer = load_tokenizer(folder, max_tokens=max_tokens)
        self._loaded: TextEncoder | None = None
        self.width = int(read_config(folder, "text_encoder")["d_model"])

    @property
    def is_loaded(self) -> bool:
        """Whether the weights are in memory."""
        return self._loaded is not None

    def count_tokens(self, prompt: str) -> int:
        """Count the tokens of a prompt with the end token and without padding."""
        return self._tokenizer.count_tokens(prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that the tokenizer does not know, each once."""
        return self._tokenizer.unknown_words(prompt)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: embeds_SLD, float32. Raises: as `load_text` and `TextEncoder.encode`."""
        if self._loaded is None:
            self._loaded = load_text(
                self._folder, device=self._device, dtype=self._dtype, max_tokens=self._max_tokens
            )
        return self._loaded.encode(prompts).float()

    def release(self) -> None:
        """Free the weights; the next prompt loads them again."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        loaded.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


@dataclass(frozen=True, kw_only=True, slots=True)
class FrozenParts:
    """Every part of a model except its transformer.

    Attributes:
        max_text_tokens: Tokens that prompts are padded to.
        digest: Digest of VAE, text encoder and tokenizer.
        vae_digest: Digest of the VAE alone: everything that latents depend on.
        text_digest: Digest of what embeddings depend on: text encoder, its data type, tokenizer and
            `max_text_tokens`.
    """

    vae: SceneVae
    text: LateTextEncoder
    schedule: VelocitySchedule
    max_text_tokens: int
    digest: str
    vae_digest: str
    text_digest: str

    def encode_frames(self, frames_BPCHW: Tensor) -> Tensor:
        """Encode clips, one by one: float frames in [-1, 1] to scaled latents BFCHW."""
        pixels = frames_BPCHW[0, :, 0].numel()
        count = max(_PIXELS_AT_ONCE // pixels, 1) if self.vae.device.type == "cuda" else _CLIPS_AT_ONCE
        parts = torch.split(frames_BPCHW, count)
        latents_BFCHW = torch.cat([self.vae.encode_clips(part).cpu() for part in parts])
        return check_finite(latents_BFCHW, what="the VAE's encoding of frames")

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to embeddings BLD.

        Raises:
            PromptTooLong: A prompt has more than `max_text_tokens` tokens; prompts are never cut.
            NotFiniteError: Some values are NaN or infinite.
        """
        starts = range(0, len(prompts), _PROMPTS_AT_ONCE)
        embeds_BLD = torch.cat(
            [self.text.encode(prompts[start : start + _PROMPTS_AT_ONCE]).cpu() for start in starts]
        )
        return check_finite(embeds_BLD, what="the text encoder's output")


def load_frozen(
    folder: Path,
    *,
    max_text_tokens: int,
    device: torch.device,
    text_dtype: torch.dtype = torch.float32,
) -> FrozenParts:
    """Load VAE, tokenizer and noise schedule of a model folder, which may lack a transformer.

    Args:
        text_dtype: What the text encoder computes in.

    Raises:
        CheckpointError: A part cannot be read, or parts are missing; all missing parts are named.
        SchedulerError: The scheduler does not predict velocity.
    """
    check_components(folder, FROZEN_PARTS)
    vae = load_vae(folder, device=device, dtype=torch.float32)
    vae.module.requires_grad_(False)
    # Caches of earlier versions, whose text encoder computed in float32, keep their names.
    settings = str(max_text_tokens) + ("" if text_dtype == torch.float32 else f" {text_dtype}")
    return FrozenParts(
        vae=vae,
        text=LateTextEncoder(folder, max_tokens=max_text_tokens, device=device, dtype=text_dtype),
        schedule=VelocitySchedule.from_scheduler(load_scheduler(folder)),
        max_text_tokens=max_text_tokens,
        digest=_digest(folder, _KEYED_PARTS, settings=settings),
        vae_digest=_digest(folder, _VAE_PARTS, settings="0"),
        text_digest=_digest(folder, _TEXT_PARTS, settings=settings),
    )


def noise_config(folder: Path) -> dict[str, Any]:
    """Return the scheduler settings that decide the noise levels, defaults included.

    Raises: as `load_scheduler`.
    """
    config = load_scheduler(folder).config
    return {key: config[key] for key in _NOISE_KEYS if key in config}


def _digest(folder: Path, parts: Sequence[str], *, settings: str) -> str:
    digest = hashlib.sha256(f"{settings}\n".encode())
    for part in parts:
        for path in sorted(file for file in (folder / part).rglob("*") if file.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
