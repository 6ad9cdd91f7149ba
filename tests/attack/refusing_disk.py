"""A disk that refuses one chosen operation, or it and all later ones; `refusing_disk.c` does it.

Owns the library, the counters that it shares with every process of a command, and which operations are tried.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "M2D_COUNTERS"
_SOURCE = Path(__file__).with_name("refusing_disk.c")
_MOST_FILES = 1 << 14


class _Counters(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("at", "stays", "done")),
        ("folder", ctypes.c_char * 3072),
        ("files", ctypes.c_int64 * _MOST_FILES),
    )


def preloaded(folder: Path) -> Mapping[str, str]:
    """Compile the library, and return the variables that put it before every other."""
    library, counters = folder / "refusing_disk.so", folder / "counters"
    subprocess.run(["cc", "-O1", "-Wall", "-shared", "-fPIC", "-o", library, _SOURCE, "-ldl"], check=True)
    counters.write_bytes(bytes(ctypes.sizeof(_Counters)))
    return {"LD_PRELOAD": str(library), VARIABLE: str(counters)}


class RefusingDisk:
    """The disk of one folder, in a process that was started with what `preloaded` returned."""

    def __init__(self) -> None:
        with Path(os.environ[VARIABLE]).open("r+b") as file:
            self._counters = _Counters.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(_Counters)))

    @contextmanager
    def refusing(self, folder: Path, *, at: int, stays: bool) -> Iterator[None]:
        """Count the operations in `folder`, and refuse number `at`, from 1; 0: none."""
        counters = self._counters
        counters.at, counters.stays, counters.done = at, stays, 0
        ctypes.memset(counters.files, 0, ctypes.sizeof(counters.files))
        counters.folder = os.fsencode(os.path.realpath(folder))
        try:
            yield
        finally:
            counters.folder = b""

    @property
    def num_operations(self) -> int:
        """Number of operations in the last block of `refusing`."""
        return int(self._counters.done)

    @property
    def points(self) -> tuple[int, ...]:
        """Those operations but what is in the middle of writing one file."""
        count = self.num_operations
        files = list(self._counters.files[: count + 2])
        return tuple(
            at
            for at in range(1, count + 1)
            if not files[at] or not files[at - 1] == files[at] == files[at + 1]
        )
