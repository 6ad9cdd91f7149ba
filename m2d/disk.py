"""The system calls that change the disk, and the error that a failed one becomes.

`m2d.files` and `m2d.folders` call these as `disk.replace(...)`, so that a test can let any of them fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from m2d.errors import OutputError, OutputRefused

_MORE_SPACE = "free some space or choose another disk"
_MORE_FILES = "raise the limit of open files (`ulimit -n`)"
TEMPORARY_NAME = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.part", re.DOTALL)
"""What a file or folder is called until it is complete; `name` is its final name."""

# What the machine refuses, whatever the path.
_OF_THE_MACHINE = {
    errno.ENOSPC: _MORE_SPACE,
    errno.EDQUOT: _MORE_SPACE,
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`) or choose another disk",
    errno.EIO: "check the disk",
    errno.EMFILE: _MORE_FILES,
    errno.ENFILE: _MORE_FILES,
    errno.ENOMEM: "end other programs",
}


@contextlib.contextmanager
def output_errors(path: Path, *, deed: str = "written") -> Iterator[None]:
    """Turn an OSError of the block into an OutputError about `path`; of a temporary name, the final one."""
    try:
        yield
    except OSError as error:
        advice = _OF_THE_MACHINE | {
            errno.ENAMETOOLONG: "choose a shorter name",
            errno.EACCES: "choose a folder you may write to",
            errno.EROFS: "choose a folder you may write to",
        }
        reason = advice.get(error.errno or 0, "check the disk or choose another output")
        shown = _final(path)
        raise kind_of(error)(f"{shown}: could not be {deed}: {error.strerror or error}; {reason}") from error


def _final(path: Path) -> Path:
    found = [(TEMPORARY_NAME.fullmatch(part), part) for part in path.parts]
    return Path(*(part if match is None else match["name"] for match, part in found))


def kind_of(error: OSError) -> type[OutputError]:
    """Return the error to raise for a failed system call: the machine refuses, or the path is at fault."""
    return OutputRefused if error.errno in _OF_THE_MACHINE else OutputError


fsync, replace, unlink, mkdir, rmdir = os.fsync, os.replace, os.unlink, os.mkdir, os.rmdir


def sync_file(path: Path) -> None:
    """Make the file's content durable."""
    descriptor = open_file(path, os.O_RDONLY)
    try:
        fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    # Windows cannot open a folder: there a rename is not synced.
    if os.name != "nt":
        sync_file(folder)


def sync_name(path: Path) -> None:
    """Make durable that `path` is there, or is not.

    Raises:
        OutputError: The disk refused; until it is synced, a power cut may undo the change.
    """
    with output_errors(
        path, deed=f"synced, although it is {'there' if os.path.lexists(path) else 'removed'}"
    ):
        sync_folder(path.parent)


def open_file(path: Path, flags: int) -> int:
    """Return a descriptor."""
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def write_all(descriptor: int, data: Any) -> int:
    """Write all of `data`, a bytes-like object; return its size in bytes."""
    rest = memoryview(data).cast("B")
    size_bytes = len(rest)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return size_bytes
