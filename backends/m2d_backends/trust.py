"""Ownership, permissions and signatures of files whose code is about to run.

Owns the local key and the rules; the files' content is `m2d_backends.artifact`'s. Native code runs with the
rights of the user who loads it. It is loaded only if that user built it on this machine and no other user
could have modified it since.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from m2d.cache_root import cache_root
from m2d.errors import ArtifactRefused
from m2d.files import publish, write_part
from m2d.folders import make_folder
from m2d.reading import read_bytes

KEY_FILE = "signing.key"
_KEY_BYTES = 32
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def private_folder(path: Path) -> Path:
    """Make a folder that only this user may enter, and return its path; raises as `check_folder`."""
    if not path.is_symlink() and not path.exists():
        make_folder(path)
        path.chmod(0o700)
    check_folder(path)
    return path


def check_folder(path: Path) -> None:
    """Check that only this user can write to a folder.

    Raises:
        ArtifactRefused: It is a link, no folder, another user's, or others may write to it.
    """
    _check(path, stat.S_ISDIR, other="not a folder", advice="name the folder itself")


def check_file(path: Path) -> None:
    """Check that only this user can have written a file, and that it has no hard link.

    Raises:
        ArtifactRefused: It is a link, no plain file, hard-linked, another user's, or others may write to it.
    """
    advice = "artifacts hold plain files only, export it again"
    found = _check(path, stat.S_ISREG, other="not a plain file", advice=advice)
    if found.st_nlink != 1:
        raise ArtifactRefused(
            f"{path}: has {found.st_nlink} names (hard links), so others may change it; export it again"
        )


def sign(data: bytes) -> str:
    """Sign `data` with this user's key, which the first call makes.

    Raises:
        ArtifactRefused: Others can read or write the key's folder or file.
        OutputError: The disk refused.
    """
    return hmac.new(_key(), data, hashlib.sha256).hexdigest()


def is_signed(data: bytes, signature: str) -> bool:
    """Whether `signature` was made over `data` with this user's key."""
    return hmac.compare_digest(sign(data).encode(), signature.encode())


def _key() -> bytes:
    path = private_folder(cache_root()) / KEY_FILE
    if not path.is_symlink() and not path.exists():
        with publish(path, force=True) as part:
            part.touch(mode=0o600)
            write_part(part, secrets.token_bytes(_KEY_BYTES))
    check_file(path)
    # Reading it is enough to forge a signature.
    if os.name != "nt" and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ArtifactRefused(f"{path}: others may read this key; remove it and export again")
    key = read_bytes(path, limit_bytes=_KEY_BYTES + 1, follow=False)
    if len(key) != _KEY_BYTES:
        raise ArtifactRefused(f"{path}: {len(key)} bytes, a key has {_KEY_BYTES}; remove it and export again")
    return key


def _check(path: Path, is_kind: Callable[[int], bool], *, other: str, advice: str) -> os.stat_result:
    """Check the kind of a file and that only this user can write to it."""
    try:
        found = path.lstat()
    except OSError as error:
        raise ArtifactRefused(f"{path}: cannot be read: {error.strerror}") from error
    if not is_kind(found.st_mode):
        what = "a symbolic link" if stat.S_ISLNK(found.st_mode) else other
        raise ArtifactRefused(f"{path}: is {what}; {advice}")
    # Windows has neither owners nor modes in this sense.
    if os.name == "nt":
        return found
    if found.st_uid != os.getuid():
        raise ArtifactRefused(
            f"{path}: belongs to user {found.st_uid}, not to you ({os.getuid()}); export it yourself"
        )
    if found.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(found.st_mode)
        raise ArtifactRefused(
            f"{path}: others may write to it (mode {mode:03o}); chmod go-w does not undo what they may have "
            "done: remove it and export it again"
        )
    return found
