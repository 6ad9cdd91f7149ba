from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from m2d.model.checkpoint import load_tensors
from m2d.reading import UnreadableFile
from m2d.tensor_files import load_arrays, opened_tensors, read_header


def write(path: Path, header: Any, *, num_data_bytes: int, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text)
    with path.open("ab") as file:
        file.write(bytes(num_data_bytes))
    return path


def entry(shape: Any = (2, 2), offsets: Any = (0, 16), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_sound_file_is_read_in_every_way(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"a": np.ones((2, 2), np.float32), "b": np.zeros(3, np.int64)}, path, {"fact": "text"})
    header = read_header(path)
    assert header.tensors["a"].shape == (2, 2)
    assert header.tensors["b"].size_bytes == 24
    assert header.metadata == {"fact": "text"}
    assert load_tensors(path)["a"].sum() == 4
    assert load_arrays(path, limit_bytes=1000)["a"].sum() == 4
    with opened_tensors(path, "pt") as file:
        assert file.get_tensor("b").shape == (3,)


CASES: dict[str, tuple[Any, int, str]] = {
    "a huge shape": ({"a": entry((1 << 62, 4), (0, 16))}, 16, "a is F32"),
    "a shape whose product wraps around": ({"a": entry((1 << 32, 1 << 32), (0, 0))}, 0, "a is F32"),
    "a negative size": ({"a": entry((-2, -2))}, 16, "a has shape"),
    "a fraction": ({"a": entry((2.0, 2))}, 16, "a has shape"),
    "a truth value": ({"a": entry((True, 4))}, 16, "a has shape"),
    "text for a shape": ({"a": entry("22")}, 16, "a has shape"),
    "too many dimensions": ({"a": entry((1,) * 1000, (0, 4))}, 4, "a has shape"),
    "places that overlap": ({"a": entry(), "b": entry(offsets=(8, 24))}, 24, "b starts at byte 8"),
    "a gap": ({"a": entry(), "b": entry(offsets=(20, 36))}, 36, "b starts at byte 20"),
    "a place behind the end": ({"a": entry(offsets=(0, 16))}, 8, "take 16 bytes, the file holds 8"),
    "bytes that are of no tensor": ({"a": entry()}, 20, "take 16 bytes, the file holds 20"),
    "places in reverse": ({"a": entry(offsets=(16, 0))}, 16, "placed in -16"),
    "an unknown type": ({"a": entry(dtype="F33")}, 16, "unknown type 'F33'"),
    "a type that is no text": ({"a": entry(dtype=["F32"])}, 16, "unknown type"),
    "an entry that is no object": ({"a": [1]}, 0, "a is not described"),
    "a header that is no object": ([1], 0, "not a JSON object"),
    "metadata that is no table": ({"__metadata__": [1]}, 0, "__metadata__"),
    "a name twice": (b'{"a":1,"a":1}', 0, "stands twice"),
    "endless nesting": (b"[" * 100_000, 0, "not a safetensors file"),
    "a long number": (b'{"a":' + b"1" * 10_000 + b"}", 0, "not a safetensors file"),
    "bytes that are no text": (b"\xff\xfe", 0, "not a safetensors file"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_lying_header_is_rejected_with_its_tensor(tmp_path: Path, case: str) -> None:
    header, num_data_bytes, message = CASES[case]
    path = write(tmp_path / "a.safetensors", header, num_data_bytes=num_data_bytes)
    with pytest.raises(UnreadableFile, match=message):
        load_tensors(path)


@pytest.mark.parametrize("length", [1 << 63, 1 << 40, 100])
def test_a_header_longer_than_its_file_is_rejected(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.safetensors", {}, num_data_bytes=0, length=length)
    with pytest.raises(UnreadableFile, match=f"a header of {length:,} bytes"):
        read_header(path)


def test_a_file_shorter_than_a_header_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\0\0\0")
    with pytest.raises(UnreadableFile, match="in a file of 3"):
        read_header(path)
