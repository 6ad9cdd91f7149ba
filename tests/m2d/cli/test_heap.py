"""Freed memory stays with the process, and is not fetched page by page from the system again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_PROGRAM = """
import resource, sys
import numpy as np
from m2d.cli.heap import keep_freed_memory
agreed = keep_freed_memory() if sys.argv[1] == "kept" else True
# The first ones fetch pages in any case: few large or thousands of small ones, as memory happens to be free.
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**25, dtype=np.uint8).fill(1)
print(agreed, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages that the system handed out for ten arrays of 32 MiB, one after the other."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM, mode], capture_output=True, text=True, check=True)
    agreed, count = done.stdout.split()
    assert agreed == "True"
    return int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_freed_memory_is_used_again() -> None:
    # Pages may be large ones here, too, so the two are compared with each other.
    assert faults("kept") < 0.3 * faults("returned")
