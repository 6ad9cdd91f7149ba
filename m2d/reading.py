"""Opens every file that m2d reads: regular files of a bounded size, and nothing else.

A pipe can block forever, a device has no end, and opening some devices already acts on them. So a file's kind
is checked before it is opened, and again on the open file. Owns no format and no message about a command.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from io import BufferedReader
from pathlib import Path
from typing import Any

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISLNK, "a link"),
)
# A pipe with O_NONBLOCK opens at once, and a terminal with O_NOCTTY does not become the controlling one.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_SHARE_OF_MEMORY = 0.5
# Smaller files cost little even if nothing of them was written.
_FEWEST_WITH_HOLES = 64 << 20
_MOST_HOLE_SHARE = 8
_MOST_PARTS = 10_000
# What Git LFS leaves in place of a file that it has not downloaded: a few lines, at most this many bytes.
_POINTER, _MOST_POINTER_BYTES = b"version https://git-lfs.github.com/spec/", 1024


class UnreadableFile(OSError):
    """A file that is not read, as an operating-system error: `strerror` is the reason.

    Functions that already handle OSError need not know it.
    """

    def __init__(self, path: Path, reason: str, *, code: int = errno.EINVAL) -> None:
        super().__init__(code, reason, str(path))


def open_regular(path: Path, *, limit_bytes: int | None, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading.

    Args:
        limit_bytes: Largest size allowed; None for a file that is read in pieces.
        follow: Whether `path` may be a symbolic link.

    Raises:
        UnreadableFile: It is a folder, pipe, device, socket or forbidden link, is larger, or is a pointer
            of Git LFS.
        OSError: The system refused, as for a missing file.
    """
    if problem := name_problem(path):
        raise UnreadableFile(path, problem)
    _check(path, path.stat(follow_symlinks=follow), limit_bytes)
    descriptor = os.open(path, _FLAGS | (0 if follow else getattr(os, "O_NOFOLLOW", 0)))
    try:
        # Another file may have taken the name since.
        found = os.fstat(descriptor)
        _check(path, found, limit_bytes)
        _check_holes(path, descriptor, found.st_size)
        _check_pointer(path, descriptor, found.st_size)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def name_problem(name: str | Path) -> str:
    """Why no file can have this name here; empty if one can."""
    if "\0" in str(name):
        return "its name has a NUL character"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        return f"names of files are {encoding} here, which lacks a character of this one; set LC_ALL=C.UTF-8"
    return ""


def check_regular(path: Path, *, limit_bytes: int | None = None) -> int:
    """Check a file that a library opens by its name; return its size in bytes. Raises as `open_regular`."""
    with open_regular(path, limit_bytes=limit_bytes) as file:
        return os.fstat(file.fileno()).st_size


def read_bytes(path: Path, *, limit_bytes: int, follow: bool = True) -> bytes:
    """Read a whole file; raises as `open_regular`."""
    with open_regular(path, limit_bytes=limit_bytes, follow=follow) as file:
        # Files of /proc have no size, and a file may grow while it is read.
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise _too_large(path, len(data), limit_bytes)
    return data


def read_text(path: Path, *, limit_bytes: int, encoding: str = "utf-8") -> str:
    """Read a whole text file, newlines unchanged.

    Raises:
        UnicodeDecodeError: It is not text of this encoding.
        OSError: As `open_regular`.
    """
    return read_bytes(path, limit_bytes=limit_bytes).decode(encoding)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON that others may have written.

    Raises:
        ValueError: It is no JSON, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def memory_limit_bytes() -> int:
    """Largest file that is read into memory as a whole where its content sets no limit: half the memory."""
    try:
        total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        total_bytes = 8 << 30
    return int(total_bytes * _SHARE_OF_MEMORY)


def _check(path: Path, found: os.stat_result, limit_bytes: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for is_kind, name in _KINDS if is_kind(found.st_mode)), "something else")
        raise UnreadableFile(path, f"it is {kind}, not a regular file")
    if limit_bytes is not None and found.st_size > limit_bytes:
        raise _too_large(path, found.st_size, limit_bytes)


def _check_holes(path: Path, descriptor: int, size_bytes: int) -> None:
    """Reject a file that is large by its length alone: a hole takes no disk, and memory once it is read.

    File systems without holes report one part that is as long as the file.
    """
    if size_bytes < _FEWEST_WITH_HOLES or not hasattr(os, "SEEK_DATA"):
        return
    written = position = 0
    for _ in range(_MOST_PARTS):
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
            position = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return
            break
        written += position - start
        if written * _MOST_HOLE_SHARE >= size_bytes:
            os.lseek(descriptor, 0, os.SEEK_SET)
            return
    reason = f"only {written:,} of its {size_bytes:,} bytes were ever written; copy or download it again"
    raise UnreadableFile(path, reason)


def _check_pointer(path: Path, descriptor: int, size_bytes: int) -> None:
    """Reject the pointer that Git LFS leaves in place of a file."""
    if not len(_POINTER) <= size_bytes <= _MOST_POINTER_BYTES:
        return
    start = os.read(descriptor, len(_POINTER))
    os.lseek(descriptor, 0, os.SEEK_SET)
    if start == _POINTER:
        raise UnreadableFile(
            path, "it is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
        )


def _too_large(path: Path, size_bytes: int, limit_bytes: int) -> UnreadableFile:
    reason = f"it has {size_bytes:,} bytes; at most {limit_bytes:,} are allowed"
    return UnreadableFile(path, reason, code=errno.EFBIG)
