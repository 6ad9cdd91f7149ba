"""Prompts to embeddings through T5, exactly as CogVideoX was trained: padded, and without an attention mask.

Owns the text encoder's forward pass; tokens are counted in `m2d.model.tokenizer`.
"""

# S prompts, L tokens, D width.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2d.model.tokenizer import PromptTokenizer
from m2d.placement.modes import MemoryMode
from m2d.placement.offload import empty, offload, waits_on_cpu

if TYPE_CHECKING:
    from transformers import T5EncoderModel


class T5TextEncoder:
    """A tokenizer and the T5 encoder that goes with it; see `m2d.families.family.TextEncoder`."""

    def __init__(self, model: T5EncoderModel, tokenizer: PromptTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self._is_apart = False

    def count_tokens(self, prompt: str) -> int:
        return self.tokenizer.count_tokens(prompt)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts; the padding after them is embedded, too, and seen by all tokens.

        Args:
            prompts: At least one; may be empty strings.

        Returns:
            embeds_SLD: L is the tokenizer's `max_tokens`; in the model's dtype and on its device.
        """
        if not prompts:
            raise ValueError("no prompts to encode")
        ids_SL = torch.tensor([self.tokenizer.encode(prompt) for prompt in prompts], device=self.model.device)
        embeds_SLD: Tensor = self.model(ids_SL).last_hidden_state
        return embeds_SLD

    def offload(self, mode: MemoryMode, device: str) -> None:
        self._is_apart = waits_on_cpu(mode)
        # The blocks are those of the encoder; around it, the model has no weights of its own.
        offload(self.model.encoder, mode, device)

    def move(self, device: str) -> None:
        if not self._is_apart:
            self.model.to(device)

    def release(self) -> None:
        # transformers' models refer to themselves in cycles: emptied, they free their memory now.
        empty(self.model)
