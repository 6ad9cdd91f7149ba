"""Folders, made, renamed and removed durably; where the disk refuses, every function raises `OutputError`."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from m2d import disk
from m2d.errors import OutputError, OutputRefused


def with_home(path: str | Path) -> Path:
    """Replace `~` or `~user` at the start of a path; a name whose user is unknown stays as it is."""
    # Path.expanduser raises RuntimeError for an unknown user, and for a process without a home.
    return Path(path) if "\0" in str(path) else Path(os.path.expanduser(path))  # noqa: PTH111


def make_folder(path: Path) -> None:
    """Make the folder `path` and those above it, durably; an existing one is no error.

    Raises:
        OutputError: The disk refused, or a file has this name.
    """
    if path.is_dir():
        return
    if path.parent != path:
        make_folder(path.parent)
    with disk.output_errors(path):
        try:
            disk.mkdir(path)
        except FileExistsError as error:
            if _is_folder(path) is False:
                raise OutputError(
                    f"{path}: a folder is needed there, but a file has its name; "
                    "move it or choose another output"
                ) from error
            # Another process was faster. It may have removed the folder since, as locks do.
            make_folder(path)
            return
    disk.sync_name(path)


def _is_folder(path: Path) -> bool | None:
    """Whether `path` is a folder; None if nothing is there. One system call, so that no other process can
    change the answer in between."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False if path.is_symlink() else None


def is_folder(path: Path) -> bool:
    """Whether `path` is a folder; a name that the system rejects, such as a too long one, is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def remove_empty_folder(path: Path) -> None:
    """Remove the folder `path`, durably; a missing or non-empty one is no error."""
    with disk.output_errors(path, deed="removed"):
        try:
            disk.rmdir(path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                return
            raise
    disk.sync_name(path)


def rename_folder(source: Path, target: Path) -> None:
    """Give the folder `source` the name `target`, durably; no folder may have that name."""
    with disk.output_errors(target):
        disk.replace(source, target)
    disk.sync_name(target)


def sync_tree(folder: Path) -> None:
    """Make all files and folders in `folder`, and itself, durable."""
    with disk.output_errors(folder):
        for path in sorted(folder.rglob("*")):
            disk.sync_folder(path) if path.is_dir() else disk.sync_file(path)
        disk.sync_folder(folder)


def remove_tree(folder: Path) -> None:
    """Remove `folder` and its content; a missing folder is no error."""
    with disk.output_errors(folder, deed="removed"):
        # Links are removed, not followed.
        for path in sorted(folder.rglob("*"), reverse=True):
            disk.rmdir(path) if path.is_dir() and not path.is_symlink() else disk.unlink(path)
        if folder.is_dir():
            disk.rmdir(folder)


@contextmanager
def removed_on_error(folder: Path) -> Iterator[None]:
    """Make `folder` empty for the block; if the block raises, Ctrl-C included, remove it with its content.

    Listing a folder takes a descriptor, so one is held for the removal: the error may be that no more files
    can be opened.
    """
    with disk.output_errors(folder):
        spare = disk.open_file(Path(os.devnull), os.O_RDONLY)
    try:
        remove_tree(folder)
        make_folder(folder)
        yield
    except BaseException:
        os.close(spare)
        # The first error is the one to report.
        with suppress(OutputError):
            remove_tree(folder)
        raise
    os.close(spare)


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Check that the disk of `folder` has room, before any work is done.

    Raises:
        OutputRefused: Less than `needed_bytes` is free.
    """
    with disk.output_errors(folder):
        free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise OutputRefused(
            f"{folder}: {free_bytes / 1e6:,.1f} MB are free, {needed_bytes / 1e6:,.1f} MB are needed; "
            "free some space or choose another disk"
        )
