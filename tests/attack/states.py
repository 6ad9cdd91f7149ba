"""States of the process that runs a command: streams that are gone, a folder without permissions, limits."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

_CAPABILITY_VERSION = 0x20080522


def obey_permissions() -> None:
    """Give up root's right to open every file, so that permissions mean something (Linux)."""
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "capset"):
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        library.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))


def _full(descriptor: int) -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)


def _broken_pipe(descriptor: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, descriptor)
    os.close(writer)


def _reader_of_a_line(descriptor: int) -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.closerange(writer, writer + 1)
        while os.read(reader, 1) not in (b"\n", b""):
            pass
        os._exit(0)
    os.close(reader)
    os.dup2(writer, descriptor)
    os.close(writer)


def _in_removed_folder() -> None:
    gone = Path("gone").absolute()
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()


def _in_read_only_folder() -> None:
    obey_permissions()
    Path().chmod(0o555)


def _limit(kind: int, value: int) -> None:
    resource.setrlimit(kind, (value, value))


STATES: dict[str, Callable[[], object]] = {
    "stdin is closed": lambda: os.close(0),
    "stdout is closed": lambda: os.close(1),
    "stderr is closed": lambda: os.close(2),
    "all streams are closed": lambda: os.closerange(0, 3),
    "stdout is full": lambda: _full(1),
    "stderr is full": lambda: _full(2),
    "nobody reads stdout": lambda: _broken_pipe(1),
    "nobody reads stderr": lambda: _broken_pipe(2),
    "stdout is read for a line": lambda: _reader_of_a_line(1),
    "stderr is read for a line": lambda: _reader_of_a_line(2),
    "the folder is removed": _in_removed_folder,
    "the folder is read-only": _in_read_only_folder,
    "umask 777": lambda: (obey_permissions(), os.umask(0o777)),
    "umask 0": lambda: os.umask(0),
    "few files": lambda: _limit(resource.RLIMIT_NOFILE, 12),
    "some files": lambda: _limit(resource.RLIMIT_NOFILE, 24),
    "small files": lambda: _limit(resource.RLIMIT_FSIZE, 2000),
}
SILENT = frozenset(name for name in STATES if "std" in name or "streams" in name)
"""States in which a command cannot say why it ends."""
