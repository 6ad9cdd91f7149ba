"""The folders of `benchmarks.opening`: sound ones of the published width, and each with its one fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.opening import DAMAGES, write_folder
from m2d.errors import CheckpointError
from m2d.families.source import resolve_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_folder(tmp_path / "model", num_layers=1)
    return tmp_path / "model"


def test_a_folder_of_holes_is_taken_for_the_published_model(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", num_layers=1, num_files=2)
    source = resolve_model(str(tmp_path / "model"))
    assert (source.geometry.default_width, source.stored_dtype) == (720, "bfloat16")


@pytest.mark.parametrize("name", DAMAGES)
def test_each_fault_is_found_before_a_large_library_loads(folder: Path, name: str) -> None:
    DAMAGES[name](folder)
    with pytest.raises(CheckpointError, match="model/transformer"):
        resolve_model(str(folder))
