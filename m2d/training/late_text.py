"""A text encoder that is in memory only while prompts are encoded.

CogVideoX's text encoder has 4.8 billion weights and is idle once every prompt is encoded. Owns when it is
loaded and freed; the family encodes.
"""

# S prompts, L tokens, D width

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from m2d.families.family import TextEncoder
from m2d.families.loading import load_text, load_tokenizer
from m2d.model.components import read_config


class LateTextEncoder:
    """The text encoder of a model folder, loaded with the first prompt after every `release`."""

    def __init__(self, folder: Path, *, max_tokens: int, device: torch.device) -> None:
        """Read tokenizer and config.

        Raises:
            CheckpointError: The tokenizer or the config is missing or cannot be read.
        """
        self._folder, self._max_tokens, self._device = folder, max_tokens, device
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

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: embeds_SLD, float32; see `TextEncoder.encode`.

        Raises:
            CheckpointError: The weights do not fit their config.
            PromptTooLong: A prompt has more tokens than the model takes.
        """
        if self._loaded is None:
            self._loaded = load_text(
                self._folder, device=self._device, dtype=torch.float32, max_tokens=self._max_tokens
            )
        return self._loaded.encode(prompts)

    def release(self) -> None:
        """Free the weights; the next prompt loads them again."""
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            return
        loaded.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
