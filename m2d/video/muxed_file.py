"""The file that a film is muxed into: PyAV writes it, and reads it at a second position meanwhile.

Owns its errors. PyAV prints an exception of a file on stderr and raises another or none, so the first one is
kept here, and the muxer gets harmless answers until it is asked for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TypeVar

import av

Answer = TypeVar("Answer")


class MuxedFile(io.RawIOBase):
    """A file that is written; after an error it does nothing."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._error = file, OSError()
        self._has_failed = False

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self._has_failed:
            raise self._error

    @contextmanager
    def errors_kept(self) -> Iterator[None]:
        """Raise the first error after the block, and in place of what PyAV raises because of it."""
        try:
            yield
        except av.FFmpegError:
            self.check()
            raise
        self.check()

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # PyAV writes bytes
        return self._answer(lambda: self._file.write(data), otherwise=len(data))

    def read(self, size: int = -1, /) -> bytes:
        return self._answer(lambda: self._file.read(size), otherwise=b"")

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._answer(lambda: self._file.seek(offset, whence), otherwise=0)

    def tell(self) -> int:
        return self._answer(self._file.tell, otherwise=0)

    def read_at(self, offset: int, size: int) -> bytes:
        """Return bytes from a place; the position stays."""

        def read() -> bytes:
            written_at = self._file.tell()
            self._file.seek(offset)
            data = self._file.read(size)
            self._file.seek(written_at)
            return data

        return self._answer(read, otherwise=b"")

    def size_bytes(self) -> int:
        """Return the number of bytes so far; the position stays."""

        def measure() -> int:
            written_at = self._file.tell()
            end = self._file.seek(0, io.SEEK_END)
            self._file.seek(written_at)
            return end

        return self._answer(measure, otherwise=0)

    def _answer(self, work: Callable[[], Answer], *, otherwise: Answer) -> Answer:
        if not self._has_failed:
            try:
                return work()
            except OSError as error:
                self._error, self._has_failed = error, True
        return otherwise


class SecondReader(io.RawIOBase):
    """Reads the file while it is written, at a position of its own."""

    def __init__(self, file: MuxedFile) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {
            io.SEEK_SET: lambda: 0,
            io.SEEK_CUR: self.tell,
            io.SEEK_END: self._file.size_bytes,
        }[whence]
        self._at = start() + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        data = self._file.read_at(self._at, size)
        self._at += len(data)
        return data
