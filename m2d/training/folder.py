"""Publish a folder complete or not at all, and verify it by a manifest of SHA-256 digests.

Knows nothing about the contents of the files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError, OutputError
from m2d.files import sha256_file, write_part
from m2d.folders import make_folder, remove_tree, removed_on_error, rename_folder, sync_tree
from m2d.reading import parse_json, read_text

MANIFEST = "manifest.json"
_PART = ".part"
_LONGEST_MANIFEST_BYTES = 1 << 20


def canonical_json(value: Any) -> str:
    """Write JSON in the canonical form that digests are taken over."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


@contextmanager
def publish_folder(path: Path, *, replace: bool = False, with_manifest: bool = True) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success give it a manifest, sync it and rename it.

    On any exception the temporary folder is removed and `path` stays unchanged. With `replace`, an existing
    `path` is moved away just before the rename and removed when the new folder is durable.

    Raises:
        OutputError: The disk refused, or `path` exists and `replace` is false.
    """
    _check_free(path, replace=replace)
    part = path.with_name(f".{path.name}.{os.getpid()}{_PART}")
    make_folder(path.parent)
    with removed_on_error(part):
        yield part
        if with_manifest:
            _write_manifest(part)
        _give_usual_permissions(part)
        sync_tree(part)
        # Check again: the folder may have appeared during the work.
        _check_free(path, replace=replace)
        old = _move_away(path) if path.exists() else None
        rename_folder(part, path)
        if old is not None:
            remove_tree(old)


def _check_free(path: Path, *, replace: bool) -> None:
    if path.exists() and not replace:
        raise OutputError(f"{path}: exists already; choose another name")


def _give_usual_permissions(folder: Path) -> None:
    """Let those read the files who can read the folder: libraries write weights for their owner alone."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)


def remove_folder(path: Path) -> None:
    """Remove a published folder; an interruption leaves no incomplete folder under its name.

    Raises:
        OutputError: The disk refused.
    """
    remove_tree(_move_away(path))


def remove_leftovers(parent: Path) -> None:
    """Remove the temporary folders of interrupted writers in `parent`; only its owner may call this.

    Raises:
        OutputError: The disk refused.
    """
    for stray in parent.glob(f".*{_PART}"):
        if stray.is_dir():
            remove_tree(stray)


def verify_folder(path: Path) -> None:
    """Compare every file of a published folder with its manifest.

    Raises:
        CheckpointError: The manifest is missing or altered, or a file is missing, added or altered.
    """
    listed = _read_manifest(path)
    present = {str(file.relative_to(path)) for file in _files_of(path)} - {MANIFEST}
    if present != set(listed):
        raise CheckpointError(f"{path}: files {sorted(present ^ set(listed))} disagree with {MANIFEST}")
    for name, digest in listed.items():
        if _digest_of(path / name) != digest:
            raise CheckpointError(f"{path / name}: its bytes do not match {MANIFEST}; the file was altered")


def _digest_of(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _read_manifest(path: Path) -> dict[str, str]:
    manifest = path / MANIFEST
    try:
        text = read_text(manifest, limit_bytes=_LONGEST_MANIFEST_BYTES, encoding="ascii")
        document = parse_json(text)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{manifest}: cannot be read ({error}); the folder is incomplete") from error
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, dict) or not all(isinstance(digest, str) for digest in files.values()):
        raise CheckpointError(f"{manifest}: is not a manifest")
    # The digest over the list and the canonical form reveal any altered byte of the manifest itself.
    if text != canonical_json(_manifest_of(files)):
        raise CheckpointError(f"{manifest}: its bytes do not match their own digest; the file was altered")
    return files


def _manifest_of(files: dict[str, str]) -> dict[str, Any]:
    return {"files": files, "sha256": hashlib.sha256(canonical_json(files).encode()).hexdigest()}


def _write_manifest(part: Path) -> None:
    files = {str(file.relative_to(part)): sha256_file(file) for file in _files_of(part)}
    write_part(part / MANIFEST, canonical_json(_manifest_of(files)).encode("ascii"))


def _files_of(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if not file.is_dir())


def _move_away(path: Path) -> Path:
    """Rename a published folder to a temporary name; return its new path."""
    old = path.with_name(f".{path.name}.{os.getpid()}.old{_PART}")
    remove_tree(old)
    rename_folder(path, old)
    return old
