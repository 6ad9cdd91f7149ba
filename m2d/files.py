"""Files that appear under their final name complete or not at all: written, synced, then renamed.

Owns names and durability; knows no format. Folders are `m2d.folders`'s, system calls `m2d.disk`'s. Where the
disk refuses, every function raises `OutputError`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from m2d import disk
from m2d.errors import OutputError, Remedy
from m2d.reading import name_problem, open_regular

COPIED_TOGETHER_BYTES = 1 << 20
# File systems allow 255 bytes for a name; the temporary name adds a dot, a process id and an ending.
LONGEST_KEPT_NAME_BYTES = 200
_LONGEST_NAME_BYTES = 255


class PartFile(io.FileIO):
    """A file under its temporary name, open for writing through this module's own system calls."""

    def __init__(self, path: Path) -> None:
        super().__init__(disk.open_file(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), mode="r+")

    def write(self, data: Any, /) -> int:
        """Write all of `data`, a bytes-like object. Returns its size in bytes."""
        return disk.write_all(self.fileno(), data)


def check_writable(path: Path, *, force: bool) -> None:
    """Check that `path` can be published, before any work is done.

    Args:
        force: Whether an existing file may be replaced.

    Raises:
        OutputError: The folder is missing or cannot be written, the name is not possible, a folder or device
            has this name, or a file is there and `force` is not set.
    """
    folder = path.parent
    if not path.name or "\0" in str(path):
        raise OutputError(f"output {str(path)!r} is not a file name; give a name such as story.mp4")
    if problem := name_problem(path):
        raise OutputError(f"{path}: {problem} or choose another output")
    if not folder.is_dir():
        raise OutputError(f"{path}: the folder {folder} does not exist; create it or choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: the folder {folder} cannot be written to; choose another output")
    with disk.output_errors(path):
        try:
            path.lstat()
        except FileNotFoundError:
            return
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: this is not a file but a folder or device; choose another output")
    if not force:
        raise OutputError(f"{path}: exists already", remedy=Remedy.OVERWRITE)


@contextlib.contextmanager
def publish(path: Path, *, force: bool) -> Iterator[Path]:
    """Give a temporary name beside `path`, and rename the file written there to `path` if the block succeeds.

    The file is synced before the rename and the folder after it. On any exception, Ctrl-C included, the
    temporary file is removed and `path` is unchanged. Temporary files of killed processes for `path` are
    removed, too.

    Raises:
        OutputError: As `check_writable`, or the disk refused.
    """
    check_writable(path, force=force)
    remove_strays(path.parent, name=path.name)
    part = part_name(path)
    try:
        yield part
        with disk.output_errors(path):
            disk.sync_file(part)
            # Check again: a file may have appeared during the work, and the rename would replace it.
            check_writable(path, force=force)
            disk.replace(part, path)
        disk.sync_name(path)
    finally:
        # After the rename there is nothing to remove; before it, only the first error matters.
        with contextlib.suppress(OSError):
            disk.unlink(part)


def write_bytes(path: Path, data: bytes, *, force: bool = True) -> None:
    """Write `data` to `path`, complete or not at all."""
    with publish(path, force=force) as part:
        write_part(part, data)


def write_json(path: Path, obj: object, *, force: bool = True) -> None:
    """Write `obj` as indented JSON, keys sorted, ASCII only.

    Raises:
        ValueError: `obj` holds NaN or an infinity, which JSON cannot represent.
    """
    text = json.dumps(obj, indent=2, sort_keys=True, allow_nan=False)
    write_bytes(path, f"{text}\n".encode("ascii"), force=force)


def write_part(part: Path, data: bytes) -> None:
    """Write `data` to the temporary name that `publish` gave."""
    with disk.output_errors(part), PartFile(part) as file:
        file.write(data)


def copy_to_part(part: Path, source: IO[bytes]) -> None:
    """Copy the rest of `source` in chunks to the temporary name that `publish` gave."""
    with disk.output_errors(part), PartFile(part) as file:
        shutil.copyfileobj(source, file, COPIED_TOGETHER_BYTES)


@contextlib.contextmanager
def nameless_file(folder: Path) -> Iterator[IO[bytes]]:
    """Open a scratch file on the disk of `folder` that has no name and so cannot be left behind."""
    with disk.output_errors(folder):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - an error in the block is not one of opening
    with file:
        yield file


def part_name(path: Path) -> Path:
    """The temporary name of `path` for this process: `.NAME.<pid>.part` in the same folder."""
    return path.with_name(f".{_kept_name(path.name)}.{os.getpid()}.part")


def beside(path: Path, ending: str) -> Path:
    """Return `path` with `ending` in place of its suffix: `out/NAME-again.mp4`; a long NAME is shortened."""
    stem = path.stem
    while len(os.fsencode(f"{stem}{ending}")) > _LONGEST_NAME_BYTES:
        stem = stem[:-1]
    return path.with_name(f"{stem}{ending}")


def remove_strays(folder: Path, *, name: str | None = None, is_held: bool = False) -> list[Path]:
    """Remove the temporary files in `folder` whose process has ended.

    Args:
        folder: Where to look; not its subfolders.
        name: Only the files for this final name; None for all.
        is_held: Whether only the caller may write these names now. Then their processes have ended, even if
            other processes have the same ids.

    Returns:
        The removed files, sorted.
    """
    removed = []
    with disk.output_errors(folder):
        paths = sorted(folder.iterdir())
    for path in paths:
        stray = disk.TEMPORARY_NAME.fullmatch(path.name)
        if stray is None or (name is not None and stray["name"] != _kept_name(name)):
            continue
        is_in_use = not is_held and is_running(int(stray["pid"]))
        if is_in_use or path.is_symlink() or not path.is_file():
            continue
        # Another process may clean the same folder, or the file may belong to another user.
        with contextlib.suppress(OSError):
            disk.unlink(path)
            removed.append(path)
    return removed


def remove_file(path: Path) -> None:
    """Remove the file `path`, durably; a missing file is no error."""
    with disk.output_errors(path, deed="removed"):
        try:
            disk.unlink(path)
        except FileNotFoundError:
            return
    disk.sync_name(path)


def sha256_file(path: Path) -> str:
    """The sha256 of a regular file's bytes, in hex; raises as `m2d.reading.open_regular`."""
    with open_regular(path, limit_bytes=None) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_running(pid: int) -> bool:
    """Whether a process with this id may be running on this machine."""
    # Windows has no signal 0: there every stray file counts as in use and stays.
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _kept_name(name: str) -> str:
    encoded = os.fsencode(name)
    if len(encoded) <= LONGEST_KEPT_NAME_BYTES:
        return name
    return f"long-name-{hashlib.sha256(encoded).hexdigest()[:16]}"
