"""Standard streams that never end a run: text that an encoding lacks is escaped, a lost reader is ignored.

A closed stderr, a full disk behind `2>` or a pipe that ends (`| head`) must not cost hours of work. Output
after that is dropped; `Streams.problem` says so where the output was the command's only result.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TextIO

STDOUT, STDERR = 1, 2
# The reader chose to stop, as `head` does: no problem of the output.
_READER_IS_GONE = (errno.EPIPE, errno.ECONNRESET)


class SteadyFile(io.FileIO):
    """A standard stream's file; after a write that fails it leads to the null device."""

    def __init__(self, descriptor: int, *, may_wait: bool) -> None:
        """Wrap `descriptor`; `may_wait` waits for a reader of a non-blocking pipe, else text is dropped."""
        super().__init__(descriptor, mode="w", closefd=False)
        self._may_wait = may_wait
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write `data`, a bytes-like object. Returns the number of bytes that are dealt with."""
        try:
            written = super().write(data)
        except OSError as error:
            self.error = error
            _lead_to_null_device(self.fileno())
            written = len(data)
        if written is not None:
            return written
        # The pipe is non-blocking and full.
        if not self._may_wait:
            return len(data)
        select.select([], [self.fileno()], [])
        return self.write(data)


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The files of both streams."""

    stdout: SteadyFile
    stderr: SteadyFile

    @property
    def problem(self) -> str:
        """Why a part of stdout is missing, other than that its reader stopped; empty if nothing is."""
        error = self.stdout.error
        return "" if error is None or error.errno in _READER_IS_GONE else str(error.strerror)


@contextlib.contextmanager
def steady_streams() -> Iterator[Streams]:
    """Replace `sys.stdout` and `sys.stderr` for the length of a command."""
    before = sys.stdout, sys.stderr
    _open_closed_descriptors()
    files = Streams(stdout=SteadyFile(STDOUT, may_wait=True), stderr=SteadyFile(STDERR, may_wait=False))
    sys.stdout, sys.stderr = _text(files.stdout, before[0]), _text(files.stderr, before[1])
    try:
        yield files
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        # The new ones stay: the interpreter and `atexit` callbacks may still write.


def _text(file: SteadyFile, before: TextIO | None) -> TextIO:
    """Return a text stream over `file`, in the encoding of the stream that it replaces."""
    if before is not None:
        before.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=before.encoding if before is not None else "utf-8",
        errors="backslashreplace",
        line_buffering=True,
    )


def _open_closed_descriptors() -> None:
    """Give closed standard descriptors the null device: otherwise the next file opened would get messages."""
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free descriptor is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lead_to_null_device(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
