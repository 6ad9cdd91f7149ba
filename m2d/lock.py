"""One writer at a time: a folder is held by a lock that ends with the process that holds it.

Owns the lock file and the name of its holder; does not know what is written in the folder.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from m2d import disk
from m2d.errors import OutputBusy, OutputError, Remedy
from m2d.files import is_running, remove_file
from m2d.folders import make_folder, remove_empty_folder

FILE = ".lock"
LONGEST_OWNER_BYTES = 300
# A try fails only if the previous holder has just released the lock. With many waiting processes on a busy
# machine this happens repeatedly; this often and long, only on a disk whose files have no identity.
LEAST_TRIES, LEAST_TRYING_S = 100, 20.0
# The longest time between locking a file and writing the holder's name, on a busy machine.
LONGEST_NAMELESS_S = 10.0
PAUSE_S = 0.01
_OWNER = re.compile(r"(?P<pid>\d+)( (?P<host>\S+))?\s*")

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        # Far behind the text: others cannot read a locked range.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def hold(folder: Path, *, what: str) -> Iterator[None]:
    """Hold `folder` for this process until the block ends; a killed process releases it, too.

    Args:
        folder: Made if it does not exist; removed at the end if it is empty.
        what: The work, for the message that other processes get: `training there`.

    Raises:
        OutputBusy: Another process holds it.
        OutputError: It cannot be made or locked.
    """
    path = folder / FILE
    descriptor = _acquire(path, what=what)
    try:
        yield
    finally:
        # Removed before it is released: a process that has opened it notices that its file is gone.
        # A failure must not hide the block's result: the next holder takes over a remaining lock file.
        with suppress(OutputError):
            remove_file(path)
            remove_empty_folder(folder)
        os.close(descriptor)


def is_held(folder: Path) -> bool:
    """Whether a process holds `folder`, on this machine."""
    try:
        descriptor = os.open(folder / FILE, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _acquire(path: Path, *, what: str) -> int:
    until_s = time.monotonic() + LEAST_TRYING_S
    num_tries = 0
    while num_tries < LEAST_TRIES or time.monotonic() < until_s:
        num_tries += 1
        make_folder(path.parent)
        try:
            return _locked(path, what=what)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk.kind_of(error)(
                f"{path}: could not be locked: {error.strerror or error}", remedy=Remedy.CHOOSE_OUTPUT
            ) from error
    raise OutputError(
        f"{path}: was replaced {num_tries} times while it was being locked", remedy=Remedy.CHOOSE_OUTPUT
    )


def _locked(path: Path, *, what: str) -> int:
    """Lock the file and write this process's name; FileNotFoundError: its last holder has removed it."""
    with ExitStack() as on_error:
        descriptor = _open(path)
        on_error.callback(os.close, descriptor)
        until_s = time.monotonic() + LONGEST_NAMELESS_S
        while not _try_lock(descriptor):
            owner = _OWNER.fullmatch(_read(descriptor))
            # The holder may not have written its name yet; the file can still contain the previous holder's.
            if _is_owner_known(owner) or time.monotonic() > until_s:
                raise OutputBusy(f"{path.parent}: {_name_of(owner)} is {what}", remedy=Remedy.WAIT)
            time.sleep(PAUSE_S)
        if not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise FileNotFoundError(path)
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        _write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
        on_error.pop_all()
    return descriptor


def _is_owner_known(owner: re.Match[str] | None) -> bool:
    if owner is None:
        return False
    return owner["host"] != socket.gethostname() or is_running(int(owner["pid"]))


def _name_of(owner: re.Match[str] | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner['pid']} on {owner['host']}" if owner["host"] else f"process {owner['pid']}"


def _read(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    return os.read(descriptor, LONGEST_OWNER_BYTES).decode("utf-8", "replace")


def _open(path: Path) -> int:
    # Following a link would truncate another file.
    return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _write(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data)
