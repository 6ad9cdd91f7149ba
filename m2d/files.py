"""The one module for durable I/O: every file m2d makes is written, synced and renamed here.

A file appears under its final name complete or not at all. Owns names and durability; knows no format.
All system calls that change the disk go through `_open`, `_write`, `_fsync`, `_replace`, `_unlink`, `_mkdir`
and `_rmdir`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from m2d.errors import OutputError, Remedy

HASH_CHUNK_BYTES = 1 << 20
# File systems allow 255 bytes for a name; the temporary name adds a dot, a process id and an ending.
LONGEST_KEPT_NAME_BYTES = 200
_STRAY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.part", re.DOTALL)


class PartFile(io.FileIO):
    """A file under its temporary name, open for writing through this module's own system calls."""

    def __init__(self, path: Path) -> None:
        super().__init__(_open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), mode="r+")

    def write(self, data: Any, /) -> int:
        """Write all of `data`, a bytes-like object. Returns its size in bytes."""
        return _write(self.fileno(), data)


def check_writable(path: Path, *, force: bool) -> None:
    """Make sure, before any work is done, that `path` can be published.

    Args:
        path: The final name.
        force: Whether a file that is there already may be replaced.

    Raises:
        OutputError: The folder is missing or cannot be written, the name is not possible, a folder or device
            has this name, or a file is there and `force` is not set.
    """
    folder = path.parent
    if not path.name or "\0" in str(path):
        raise OutputError(f"output {str(path)!r} is not a file name; give a name such as story.mp4")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to; choose another output")
    try:
        path.lstat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _output_error(path, error) from error
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: this is not a file but a folder or device; choose another output")
    if not force:
        raise OutputError(f"{path}: exists already", remedy=Remedy.OVERWRITE)


@contextlib.contextmanager
def publish(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary name beside `path`, and rename the file written there to `path` if the block succeeds.

    The file is synced before the rename and the folder after it. On any exception, Ctrl-C included, the
    temporary file is removed and `path` is what it was before. What killed processes left behind for `path`
    is removed, too.

    Args:
        path: The final name.
        force: Whether a file that is there already may be replaced.

    Raises:
        OutputError: As `check_writable`, or the disk refused.
    """
    check_writable(path, force=force)
    remove_strays(path.parent, name=path.name)
    part = part_name(path)
    try:
        yield part
        with _reporting(path):
            _sync_file(part)
            # Again, because the work between took its time and the rename would replace what has come since.
            check_writable(path, force=force)
            _replace(part, path)
            _sync_folder(path.parent)
    finally:
        # After the rename there is nothing to remove; before it, the first error is the one worth reporting.
        with contextlib.suppress(OSError):
            _unlink(part)


def write_bytes(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write `data` to `path`, complete or not at all.

    Raises:
        OutputError: As `publish`.
    """
    with publish(path, force=force) as part:
        write_part(part, data)


def write_json(path: Path, obj: object, *, force: bool = True) -> None:
    """Write `obj` as indented JSON, keys sorted, ASCII only.

    Raises:
        OutputError: As `publish`.
        ValueError: `obj` holds NaN or an infinity, which JSON has no word for.
    """
    text = json.dumps(obj, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, f"{text}\n".encode("ascii"), force=force)


def write_part(part: Path, data: bytes) -> None:
    """Write `data` to the temporary name that `publish` gave.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(part), PartFile(part) as file:
        file.write(data)


def copy_to_part(part: Path, source: IO[bytes]) -> None:
    """Copy what is left to read of `source` to the temporary name that `publish` gave, bit by bit.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(part), PartFile(part) as file:
        while chunk := source.read(HASH_CHUNK_BYTES):
            file.write(chunk)


@contextlib.contextmanager
def nameless_file(folder: Path) -> Iterator[IO[bytes]]:
    """Open a scratch file on the disk of `folder` that has no name and so can never be left behind.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(folder):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - an error in the block is not one of opening
    with file:
        yield file


def part_name(path: Path) -> Path:
    """The temporary name of `path` for this process: `.NAME.<pid>.part` in the same folder."""
    return path.with_name(f".{_kept_name(path.name)}.{os.getpid()}.part")


def remove_strays(folder: Path, *, name: str | None = None, is_held: bool = False) -> list[Path]:
    """Remove the temporary files in `folder` whose process has ended.

    Args:
        folder: Where to look; not its subfolders.
        name: Only those of this final name; None: all of them.
        is_held: Whether the caller alone may write these names now. Then their processes have ended, whoever
            has got their numbers since.

    Returns:
        What was removed, sorted.

    Raises:
        OutputError: The folder cannot be listed.
    """
    removed = []
    with _reporting(folder):
        paths = sorted(folder.iterdir())
    for path in paths:
        stray = _STRAY.fullmatch(path.name)
        if stray is None or (name is not None and stray["name"] != _kept_name(name)):
            continue
        is_in_use = not is_held and is_running(int(stray["pid"]))
        if is_in_use or path.is_symlink() or not path.is_file():
            continue
        # Another process may clean the same folder, or the file may belong to somebody else.
        with contextlib.suppress(OSError):
            _unlink(path)
            removed.append(path)
    return removed


def remove_file(path: Path) -> None:
    """Remove the file `path`, durably; one that is not there is no error.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(path, deed="removed"):
        try:
            _unlink(path)
        except FileNotFoundError:
            return
        _sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it, durably; one that is there is no error.

    Raises:
        OutputError: The disk refused, or a file has this name.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    with _reporting(path):
        try:
            _mkdir(path)
        except FileExistsError as error:
            if _is_folder(path) is False:
                raise OutputError(
                    f"{path}: a folder is needed there, but a file has its name; "
                    "move it or choose another output"
                ) from error
            # Another process has been quicker. It may have removed the folder again since, as locks do.
            make_folder(path)
            return
        _sync_folder(path.parent)


def _is_folder(path: Path) -> bool | None:
    """Whether `path` is a folder; None: nothing is there (any more). One question, so no other process can
    come between two."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False if path.is_symlink() else None


def remove_empty_folder(path: Path) -> None:
    """Remove the folder `path`, durably; one that is not there, or that something is in, is no error.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(path, deed="removed"):
        try:
            _rmdir(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                return
            raise
        _sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses within the block into an error about `path`.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(path):
        yield


def sync_tree(folder: Path) -> None:
    """Make all files and folders in `folder`, and itself, durable.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(folder):
        for path in sorted(folder.rglob("*")):
            _sync_folder(path) if path.is_dir() else _sync_file(path)
        _sync_folder(folder)


def rename_folder(source: Path, target: Path) -> None:
    """Give the folder `source` the name `target`, durably; no folder may have it yet.

    Raises:
        OutputError: The disk refused, or something has this name.
    """
    with _reporting(target):
        _replace(source, target)
        _sync_folder(target.parent)


def remove_tree(folder: Path) -> None:
    """Remove `folder` and all that is in it; one that is not there is no error.

    Raises:
        OutputError: The disk refused.
    """
    with _reporting(folder, deed="removed"):
        # Links are removed, not followed.
        for path in sorted(folder.rglob("*"), reverse=True):
            _rmdir(path) if path.is_dir() and not path.is_symlink() else _unlink(path)
        if folder.is_dir():
            _rmdir(folder)


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Make sure, before any work is done, that the disk of `folder` has room.

    Raises:
        OutputError: Less than `needed_bytes` is free.
    """
    with _reporting(folder):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutputError(
            f"{folder}: {free_bytes / 1e6:,.1f} MB are free, {needed_bytes / 1e6:,.1f} MB are needed; "
            "free some space or choose another disk"
        )


def sha256_file(path: Path) -> str:
    """The sha256 of the file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def is_running(pid: int) -> bool:
    """Whether a process of this number may be running on this machine, whoever's it is."""
    # Windows knows no signal 0: there a stray is taken for somebody's work and stays.
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _kept_name(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_KEPT_NAME_BYTES:
        return name
    return f"long-name-{hashlib.sha256(encoded).hexdigest()[:16]}"


@contextlib.contextmanager
def _reporting(path: Path, *, deed: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _output_error(path, error, deed=deed) from error


def _output_error(path: Path, error: OSError, *, deed: str = "written") -> OutputError:
    advice = {
        errno.ENOSPC: "free some space or choose another disk",
        errno.EDQUOT: "free some space or choose another disk",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.EACCES: "choose a folder you may write to",
        errno.EROFS: "choose a folder you may write to",
    }.get(error.errno or 0, "check the disk or choose another output")
    return OutputError(f"{path}: could not be {deed}: {error.strerror or error}; {advice}")


def _sync_file(path: Path) -> None:
    descriptor = _open(path, os.O_RDONLY)
    try:
        _fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; there the rename itself is all that can be had.
    if os.name == "nt":
        return
    _sync_file(folder)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)


def _write(descriptor: int, data: Any) -> int:
    rest = memoryview(data).cast("B")
    size_bytes = len(rest)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    return size_bytes


def _fsync(descriptor: int) -> None:
    os.fsync(descriptor)


def _replace(source: Path, target: Path) -> None:
    source.replace(target)


def _unlink(path: Path) -> None:
    path.unlink()


def _mkdir(path: Path) -> None:
    path.mkdir()


def _rmdir(path: Path) -> None:
    path.rmdir()
