"""Reads safetensors files whose header was validated against the file's size first.

Owns the validation, which opens no tensor; writing is `m2d.training.tensor_file`'s. Imports no torch.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from m2d.reading import UnreadableFile, open_regular

if TYPE_CHECKING:
    import numpy as np

# The format: eight bytes of header length, the header, the data.
_LENGTH_BYTES = 8
# A hundred times the header of the largest model; a parser takes seconds for more.
_LONGEST_HEADER_BYTES = 8 << 20
_MOST_DIMENSIONS = 16
_ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorEntry:
    """One tensor of a file; `dtype` is as safetensors calls it, such as `F16`."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorHeader:
    """Validated header of a safetensors file: names to tensors, and the text facts beside them."""

    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path, *, limit_bytes: int | None = None) -> TensorHeader:
    """Read and validate the header of a safetensors file.

    Every tensor's type, shape and place must agree, and the tensors must fill the file without gap or
    overlap: so no header can make a reader allocate more than the file holds.

    Args:
        limit_bytes: Largest size of the file.

    Raises:
        UnreadableFile: The file is not such a file; the reason names the tensor.
        OSError: It cannot be opened; see `m2d.reading.open_regular`.
    """
    with open_regular(path, limit_bytes=limit_bytes) as file:
        try:
            return _parsed(file)
        except (ValueError, RecursionError) as error:
            raise UnreadableFile(path, f"it is truncated or not a safetensors file: {error}") from error


@contextmanager
def opened_tensors(path: Path, framework: Literal["pt", "numpy"]) -> Iterator[Any]:
    """Open a file whose tensors are read one by one. Raises as `read_header`, also while it is open."""
    read_header(path)
    try:
        with safe_open(path, framework) as file:
            yield file
    except SafetensorError as error:
        raise UnreadableFile(path, f"it is truncated or not a safetensors file: {error}") from error


def load_arrays(path: Path, *, limit_bytes: int) -> dict[str, np.ndarray]:
    """Map all tensors of a file into memory, as NumPy arrays. Raises as `read_header`."""
    from safetensors.numpy import load_file

    read_header(path, limit_bytes=limit_bytes)
    try:
        arrays: dict[str, np.ndarray] = load_file(path)
    except (SafetensorError, KeyError, TypeError) as error:
        # NumPy has no name for some types.
        raise UnreadableFile(path, f"it holds a type that cannot be read: {error}") from error
    return arrays


def _parsed(file: IO[bytes]) -> TensorHeader:
    size_bytes = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if size_bytes < _LENGTH_BYTES or length > min(size_bytes - _LENGTH_BYTES, _LONGEST_HEADER_BYTES):
        raise ValueError(f"a header of {length:,} bytes in a file of {size_bytes:,}")
    document = json.loads(file.read(length).decode("utf-8"), object_pairs_hook=_without_duplicates)
    if not isinstance(document, dict):
        raise ValueError("its header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is not a table of texts")
    placed = sorted((*_placed(name, entry), name) for name, entry in document.items())
    position = 0
    for start, stop, name in placed:
        if start != position:
            raise ValueError(f"{name} starts at byte {start:,} of the data, not at {position:,}")
        position = stop
    if position != size_bytes - _LENGTH_BYTES - length:
        raise ValueError(
            f"its tensors take {position:,} bytes, the file holds {size_bytes - _LENGTH_BYTES - length:,}"
        )
    tensors = {
        name: TensorEntry(dtype=entry["dtype"], shape=tuple(entry["shape"]))
        for name, entry in document.items()
    }
    return TensorHeader(tensors=tensors, metadata=metadata)


def _placed(name: str, entry: object) -> tuple[int, int]:
    """Return where a tensor's values start and stop, having checked type, shape and length."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _ITEM_BYTES:
        raise ValueError(f"{name} has the unknown type {dtype!r}")
    if not _are_sizes(shape) or len(shape) > _MOST_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name} has shape {_brief(shape)} and data_offsets {_brief(offsets)}")
    start, stop = offsets
    size_bytes = TensorEntry(dtype=dtype, shape=tuple(shape)).size_bytes
    if stop - start != size_bytes:
        raise ValueError(
            f"{name} is {dtype} {shape}, {size_bytes:,} bytes, but is placed in {stop - start:,}"
        )
    return start, stop


def _are_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(each) is int and 0 <= each < 1 << 63 for each in value)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return found
