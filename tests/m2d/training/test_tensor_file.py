from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from m2d.errors import OutputError
from m2d.training.tensor_file import write_tensors
from tests.m2d.faults import FaultyDisk, refuse

TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "b": torch.tensor(7, dtype=torch.int64),
    "c": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "d": torch.tensor([1, 2, 3], dtype=torch.uint8),
    "e": torch.empty(0, 4),
    "f": torch.tensor([1.0], dtype=torch.float16),
    "g": torch.tensor([True, False]),
}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", TENSORS, TENSORS.values())
    back = load_file(tmp_path / "x.safetensors")
    assert back.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor), name


def test_values_that_are_not_the_ones_announced_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a: \(2, 3\) torch.float32 differs from the header"):
        write_tensors(tmp_path / "x.safetensors", {"a": TENSORS["a"]}, [TENSORS["a"].T])


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FaultyDisk(at=3, fault=refuse(errno.ENOSPC)).install(monkeypatch)
    with pytest.raises(OutputError, match=r"x.safetensors: could not be written: No space left on device"):
        write_tensors(tmp_path / "x.safetensors", TENSORS, TENSORS.values())
