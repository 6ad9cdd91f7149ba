"""all-MiniLM-L6-v2 (Wang et al. 2020; sentence-transformers): sentences as vectors.

Shapes: B sentences, L tokens, D = 384.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from m2d.evaluation.networks import NETWORKS, load_network, network_folder
from m2d.reading import read_bytes

# Its training cut longer sentences.
_MOST_BYTES = 64 << 20
_MOST_TOKENS = 256
_BATCH = 64


class Sentences:
    """The sentence encoder: mean of the last layer over the tokens, at length 1."""

    def __init__(self, *, device: str) -> None:
        """Load weights and tokenizer from the cache.

        Raises: as `load_network`.
        """
        from tokenizers import Tokenizer
        from transformers import BertConfig, BertModel

        self.protocol = "all-minilm-l6-v2/1"
        self.digest = NETWORKS["minilm"].weights_sha256
        config = BertConfig(
            hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
        )
        self._model: Any = BertModel(config, add_pooling_layer=False).eval()
        weights = load_network("minilm", device="cpu")
        kept = {name: value for name, value in weights.items() if not name.startswith("pooler.")}
        # Position numbers are a buffer that is computed, not stored.
        self._model.load_state_dict(kept, strict=True)
        self._model.to(device)
        self._device = device
        vocabulary = read_bytes(network_folder("minilm") / "tokenizer.json", limit_bytes=_MOST_BYTES)
        self._tokenizer: Any = Tokenizer.from_buffer(vocabulary)
        self._tokenizer.enable_truncation(_MOST_TOKENS)
        self._tokenizer.enable_padding()

    @torch.inference_mode()
    def encode(self, sentences: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the vectors of sentences, (B, D), each of length 1."""
        return np.concatenate(
            [self._encode(sentences[start : start + _BATCH]) for start in range(0, len(sentences), _BATCH)]
        )

    def _encode(self, sentences: Sequence[str]) -> npt.NDArray[np.float64]:
        encoded = self._tokenizer.encode_batch(list(sentences))
        ids_BL = torch.tensor([each.ids for each in encoded], device=self._device)
        mask_BL = torch.tensor([each.attention_mask for each in encoded], device=self._device)
        hidden_BLD = self._model(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state
        mean_BD = (hidden_BLD * mask_BL[..., None]).sum(1) / mask_BL.sum(1, keepdim=True)
        vectors: npt.NDArray[np.float64] = torch.nn.functional.normalize(mean_BD).double().cpu().numpy()
        return vectors
