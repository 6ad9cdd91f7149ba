"""Write safetensors files one tensor at a time, through `m2d.files`.

The library's writer needs all tensors in memory at once; here the weights of a sharded model are gathered,
written and freed one by one. The library reads the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from m2d.disk import output_errors
from m2d.files import PartFile

# https://huggingface.co/docs/safetensors/index#format: eight bytes of header length, the header, the data.
_LENGTH_BYTES, _ALIGNMENT = 8, 8
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], values: Iterable[Tensor]) -> None:
    """Write a safetensors file.

    Args:
        path: The file, under a temporary name or in a folder with one.
        tensors: Names, shapes and dtypes, in the file's order; the values are not read.
        values: The whole tensors on the CPU, in the same order.

    Raises:
        OutputError: The disk refused.
    """
    header = _header(tensors)
    with output_errors(path), PartFile(path) as file:
        file.write(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
        for (name, spec), value in zip(tensors.items(), values, strict=True):
            if value.shape != spec.shape or value.dtype != spec.dtype:
                raise ValueError(f"{name}: {tuple(value.shape)} {value.dtype} differs from the header")
            file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy())


def _header(tensors: Mapping[str, Tensor]) -> bytes:
    entries, stop = {}, 0
    for name, tensor in tensors.items():
        start, stop = stop, stop + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, stop],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True)
    return (text + " " * (-len(text) % _ALIGNMENT)).encode("ascii")
