"""A walk through the operations of one command; `python -m tests.attack.full_disk` walks through all."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.attack.full_disk import main


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
def test_a_disk_that_is_full_at_any_operation_costs_a_line_and_the_repeated_command_ends_well(
    tmp_path: Path,
) -> None:
    out = tmp_path / "full_disk.json"
    assert main(["--command", "board", "--command", "generate", "--every", "5", "--out", str(out)]) == 0
    commands = json.loads(out.read_text())["commands"]
    assert commands["board"]["tried"]["full"] == 1
    assert commands["generate"]["failed"] > 10
