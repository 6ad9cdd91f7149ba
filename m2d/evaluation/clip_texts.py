"""Prompts for the text encoders of CLIP and ViCLIP: their tokens, in pieces that the encoder has room for.

Owns the rule for long prompts: a text encoder sees 77 tokens (CLIP) or 32 (ViCLIP).
Shapes: B pieces, L tokens, N prompts, D features.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from m2d.errors import CheckpointError
from m2d.evaluation.consistency import Scores
from m2d.reading import check_regular, read_bytes

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json")
_MOST_BYTES = 32 << 20
_NUM_MERGES = 49_152 - 256 - 2
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+")
_BATCH = 64


class ClipTexts:
    """Tokens of prompts for a text encoder with room for `context` tokens."""

    def __init__(self, folder: Path, *, context: int) -> None:
        """Load the tokenizer of a folder: files of transformers, or the vocabulary published with CLIP.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        from transformers import CLIPTokenizer

        try:
            if (folder / _VOCABULARY).exists():
                self._tokenizer: Any = CLIPTokenizer(**_published_vocabulary(folder / _VOCABULARY))
            else:
                for name in _FILES:
                    if (folder / name).exists():
                        check_regular(folder / name, limit_bytes=_MOST_BYTES)
                self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                if len(self._tokenizer) < 4:
                    raise ValueError("there is no vocabulary")
        except Exception as error:  # The library raises its own classes, and bare Exception.
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            wanted = f"tokenizer.json, vocab.json with merges.txt, or {_VOCABULARY}"
            raise CheckpointError(
                f"{folder}: holds no tokenizer of CLIP ({wanted}), which prompts need: {first}"
            ) from error
        self._context = context

    def pieces(self, prompt: str) -> list[list[int]]:
        """Return the tokens of a prompt in pieces that fit the encoder, without start and end tokens.

        A piece holds as many whole sentences as fit; a longer sentence is cut.
        """
        room = self._context - 2
        pieces: list[list[int]] = []
        for sentence in _SENTENCE_ENDS.split(prompt.strip()):
            ids = self._tokenizer.encode(sentence, add_special_tokens=False)
            if pieces and len(pieces[-1]) + len(ids) <= room:
                pieces[-1] += ids
            else:
                pieces += [ids[start : start + room] for start in range(0, max(len(ids), 1), room)]
        return pieces

    def encode(self, prompts: Sequence[str], encoder: Callable[[Tensor], Tensor]) -> Scores:
        """Return the vectors of prompts, (N, D): the mean of the unit vectors of a prompt's pieces.

        Args:
            encoder: Token numbers (B, L), padded behind the end with it, to features (B, D).
        """
        start, end = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        owners, rows = [], []
        for owner, prompt in enumerate(prompts):
            for ids in self.pieces(prompt):
                rows.append([start, *ids, *[end] * (self._context - 1 - len(ids))])
                owners.append(owner)
        ids_BL = torch.tensor(rows)
        vectors_BD = torch.cat([encoder(ids_BL[at : at + _BATCH]) for at in range(0, len(ids_BL), _BATCH)])
        unit_BD = torch.nn.functional.normalize(vectors_BD.double(), dim=-1).cpu().numpy()
        places_B = np.array(owners)
        return np.stack([unit_BD[places_B == owner].mean(0) for owner in range(len(prompts))])


def _published_vocabulary(path: Path) -> dict[str, Any]:
    """Read the merges that OpenAI published and build the vocabulary from them, as its tokenizer does."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    reader = zlib.decompressobj(wbits=31)
    text = reader.decompress(read_bytes(path, limit_bytes=_MOST_BYTES), _MOST_BYTES).decode("utf-8")
    if not reader.eof:
        raise ValueError(f"{path.name} is cut off, or too large")
    merges = text.splitlines()[1 : 1 + _NUM_MERGES]
    signs = list(bytes_to_unicode().values())
    words = [*signs, *(sign + "</w>" for sign in signs), *("".join(merge.split()) for merge in merges)]
    vocabulary = {word: place for place, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    return {"vocab": vocabulary, "merges": [tuple(merge.split()) for merge in merges]}
