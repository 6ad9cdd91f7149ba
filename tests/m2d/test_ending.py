"""That a process of several is not taken apart, and still says, does and returns what it would have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import atexit, os, sys
from m2d.ending import no_finalization_in_a_group

class Witness:
    def __del__(self):
        print("taken apart")

witness = Witness()
with no_finalization_in_a_group(os.environ):
    atexit.register(print, "callback")
    print("said", end=" ")
    {end}
"""
# Threads of sixteen groups wait for Python's lock, which the program keeps, to drop their tensors.
_GROUPS = """
import os, sys
import torch
import torch.distributed as dist
from m2d.ending import no_finalization_in_a_group

with no_finalization_in_a_group(os.environ):
    dist.init_process_group("gloo")
    groups = [dist.new_group() for _ in range(16)]
    tensors = [torch.ones(1000) for _ in groups]
    sys.setswitchinterval(100)
    for _ in range(3):
        for group, tensor in zip(groups, tensors):
            dist.all_reduce(tensor, group=group)
"""
ENDS = {
    "pass": 0,
    "sys.exit()": 0,
    "sys.exit(75)": 75,
    "sys.exit('words')": 1,
    "raise ValueError": 1,
}


def _run(end: str, *, count: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(end=end)],
        env={**os.environ, "WORLD_SIZE": str(count)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("end", "status"), ENDS.items())
def test_one_process_of_two_ends_with_its_own_code_before_it_is_taken_apart(end: str, status: int) -> None:
    alone, together = _run(end, count=1), _run(end, count=2)

    assert alone.stdout.split("\n") == ["said callback", "taken apart", ""]
    assert together.stdout.split("\n") == ["said callback", ""]
    assert alone.returncode == together.returncode == status
    assert alone.stderr == together.stderr


def test_threads_that_still_hold_tensors_do_not_abort_a_program_that_is_done(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_GROUPS)

    # Without the context, two thirds of such runs end with SIGABRT.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(program)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
