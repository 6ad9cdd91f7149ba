from __future__ import annotations

import os
from pathlib import Path

import pytest

from m2d.errors import OutputError
from m2d.training.lock import lock_run


def test_a_run_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        lock_run(tmp_path / "run"),
        pytest.raises(OutputError, match=rf"process {os.getpid()} is training there"),
        lock_run(tmp_path / "run"),
    ):
        raise AssertionError("two writers")
    with lock_run(tmp_path / "run"):
        pass
