"""Prompts to token ids, as T5 sees them: the end token added, padded to a fixed length, never cut.

Owns the two tokenizer formats; needs neither torch nor transformers, so that `m2d check` can count tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from m2d.errors import CheckpointError, InputError, first_line
from m2d.model.components import tokenizer_file
from m2d.model.folder import read_json
from m2d.reading import read_bytes

# The tokenizer of T5-XXL, 32,000 tokens, has 2.4 MB as JSON.
_MOST_BYTES = 64 << 20
_GROUP, _LONGEST_PATTERN = "(", 100
_UNKNOWN_TOKEN = "<unk>"
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


class PromptTooLong(InputError):
    """A prompt with more tokens than the model takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTokenizer:
    """Turns prompts into ids.

    Attributes:
        ids_of: Ids of a prompt, end token included, neither padded nor cut.
        max_tokens: Tokens that every prompt is padded to.
        unknown_id: The token of everything that is not in the vocabulary; None if there is none.
    """

    ids_of: Callable[[str], list[int]]
    pad_id: int
    max_tokens: int
    unknown_id: int | None = None
    # Whether the vocabulary can spell a word: the captions of a dataset repeat theirs.
    _is_known: dict[str, bool] = field(default_factory=dict, init=False, repr=False, compare=False)

    def count_tokens(self, prompt: str) -> int:
        """Count a prompt's tokens, end token included, padding not."""
        return len(self.ids_of(prompt))

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words that the vocabulary cannot spell, each once, in lower case."""
        words = dict.fromkeys(_WORD.findall(prompt.lower()))
        for word in words:
            if word not in self._is_known:
                self._is_known[word] = self.unknown_id not in self.ids_of(word)
        return [word for word in words if not self._is_known[word]]

    def check_length(self, prompt: str) -> int:
        """Count a prompt's tokens and make sure that the model takes so many.

        Raises:
            PromptTooLong: It has more than `max_tokens`.
        """
        count = self.count_tokens(prompt)
        if count > self.max_tokens:
            beginning = prompt if len(prompt) <= 40 else f"{prompt[:40]}..."
            raise PromptTooLong(
                f"prompt {beginning!r}: {count} tokens, the end token included; the model takes at most "
                f"{self.max_tokens}; shorten it by {count - self.max_tokens}"
            )
        return count

    def encode(self, prompt: str) -> list[int]:
        """Return a prompt's ids, padded to `max_tokens`."""
        self.check_length(prompt)
        ids = self.ids_of(prompt)
        return ids + [self.pad_id] * (self.max_tokens - len(ids))


def read_tokenizer(path: Path, *, max_tokens: int) -> PromptTokenizer:
    """Read the tokenizer of a model folder.

    Raises:
        CheckpointError: It is missing or damaged, or in a format whose reader is not installed.
    """
    file = tokenizer_file(path)
    if file.name == "tokenizer.json":
        return _from_json(file, pad_token=_pad_token(path), max_tokens=max_tokens)
    return _from_sentencepiece(file, max_tokens=max_tokens)


def _from_json(file: Path, *, pad_token: str, max_tokens: int) -> PromptTokenizer:
    from tokenizers import Tokenizer

    content = _content(file)
    _check_parts(file, content)
    with _library_errors(file):
        tokenizer = Tokenizer.from_buffer(content)
    # What the file says about length would cut prompts without a word.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    pad_id = tokenizer.token_to_id(pad_token)
    if pad_id is None:
        raise CheckpointError(f"{file}: has no padding token {pad_token!r}; it is not the tokenizer of a T5")

    _check_ids(file, tokenizer.get_vocab().values())

    def ids_of(prompt: str) -> list[int]:
        with _library_errors(file):
            return list(tokenizer.encode(prompt).ids)

    unknown_id = tokenizer.token_to_id(_UNKNOWN_TOKEN)
    return PromptTokenizer(ids_of=ids_of, pad_id=pad_id, max_tokens=max_tokens, unknown_id=unknown_id)


def _from_sentencepiece(file: Path, *, max_tokens: int) -> PromptTokenizer:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise CheckpointError(
            f"{file}: reading it needs the package sentencepiece; pip install sentencepiece"
        ) from error
    content = _content(file)
    with _library_errors(file):
        processor = SentencePieceProcessor(model_proto=content)
    _check_ids(file, (processor.get_piece_size() - 1, processor.eos_id()))

    def ids_of(prompt: str) -> list[int]:
        with _library_errors(file):
            return [*processor.encode(prompt), processor.eos_id()]

    # T5's own vocabulary has its padding token at 0, where sentencepiece by default has none (-1).
    return PromptTokenizer(
        ids_of=ids_of,
        pad_id=max(processor.pad_id(), 0),
        max_tokens=max_tokens,
        unknown_id=processor.unk_id(),
    )


def _check_parts(file: Path, content: bytes) -> None:
    """Reject a tokenizer whose patterns could take exponential time, or whose result depends on chance."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: not a tokenizer ({error}); get it again") from error
    pending = [document]
    while pending:
        part = pending.pop()
        if isinstance(part, list):
            pending += part
        if not isinstance(part, dict):
            continue
        pending += [value for key, value in part.items() if key != "vocab"]
        pattern = part.get("Regex")
        # Repeated groups need one; those of T5 have none.
        if isinstance(pattern, str) and (_GROUP in pattern or len(pattern) > _LONGEST_PATTERN):
            raise CheckpointError(f"{file}: Regex: {pattern[:40]!r} is not supported; no T5 needs it")
        if part.get("dropout"):
            raise CheckpointError(f"{file}: dropout: {part['dropout']!r} would split words at random")


def _check_ids(file: Path, ids: Collection[int]) -> None:
    """Compare the tokens with the text encoder's vocabulary: it has no embedding for other ids."""
    config = file.parents[1] / "text_encoder" / "config.json"
    if not config.exists():
        return
    vocab_size = read_json(file.parents[1], "text_encoder/config.json").get("vocab_size")
    largest, smallest = max(ids, default=0), min(ids, default=0)
    if type(vocab_size) is int and not 0 <= smallest <= largest < vocab_size:
        raise CheckpointError(
            f"{file}: has tokens {smallest} to {largest}, but {config} has vocab_size {vocab_size}; get both "
            "from one model"
        )


@contextmanager
def _library_errors(file: Path) -> Iterator[None]:
    """Turn whatever a tokenizer library raises into a CheckpointError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the libraries raise plain Exception, and their panics are no Exception
        raise CheckpointError(
            f"{file}: not a tokenizer ({first_line(error)}); the file is damaged, get it again"
        ) from error


def _content(file: Path) -> bytes:
    try:
        return read_bytes(file, limit_bytes=_MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error


def _pad_token(path: Path) -> str:
    if not (path / "tokenizer" / "tokenizer_config.json").exists():
        return "<pad>"
    token = read_json(path, "tokenizer/tokenizer_config.json").get("pad_token", "<pad>")
    return str(token.get("content") if isinstance(token, dict) else token)
