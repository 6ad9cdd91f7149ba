"""The folders of `benchmarks.opening`: a sound one of the published width, and each with its one fault."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.opening import DAMAGES, write_folder
from m2d.errors import CheckpointError
from m2d.families.source import resolve_model


@pytest.fixture(params=[1])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    write_folder(tmp_path / "model", num_layers=1, num_files=request.param)
    yield tmp_path / "model"
    # A gigabyte.
    shutil.rmtree(tmp_path / "model")


@pytest.mark.parametrize("folder", [2], indirect=True)
def test_the_folder_is_taken_for_the_published_model(folder: Path) -> None:
    source = resolve_model(str(folder))
    assert (source.geometry.default_width, source.stored_dtype) == (720, "bfloat16")


@pytest.mark.parametrize("name", DAMAGES)
def test_each_fault_is_found_before_a_large_library_loads(folder: Path, name: str) -> None:
    DAMAGES[name](folder)
    with pytest.raises(CheckpointError, match="model/transformer"):
        resolve_model(str(folder))
