"""Exported graphs on disk: their folders, their manifests, and the checks before one is run.

Owns the manifest, publishing by rename and verification; ownership and signatures are `m2d_backends.trust`'s,
keys `m2d_backends.artifact_key`'s.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from m2d.backend import ARTIFACT_MANIFEST, StoredArtifact
from m2d.cache_root import cache_root
from m2d.disk import output_errors
from m2d.errors import ArtifactMissing, ArtifactRefused, ExportError, InputError
from m2d.files import is_running, sha256_file
from m2d.folders import make_folder, remove_tree, removed_on_error, rename_folder, sync_tree
from m2d.reading import read_bytes
from m2d_backends.artifact_key import ArtifactKey, default_folder, different_fields, key_digest
from m2d_backends.trust import check_file, check_folder, is_signed, private_folder, sign

MANIFEST = ARTIFACT_MANIFEST
_FORMAT = "m2d.artifact/1"
_MAX_MANIFEST_BYTES = 1 << 20
_STRAY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.(part|old)")

logger = logging.getLogger(__name__)


class StoredFile(BaseModel):
    """One file of an artifact, as its manifest describes it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    format: str
    key: ArtifactKey
    relative_error: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    files: dict[str, StoredFile]
    signature: str


def publish_artifact(folder: Path, key: ArtifactKey, write: Callable[[Path], float]) -> StoredArtifact:
    """Write an artifact, which appears complete under its name or not at all.

    Args:
        folder: Its final name; an artifact of that name is replaced.
        write: Writes the files into the given folder, compares the graph with the eager model and returns the
            relative error. If it raises, nothing is published.

    Raises:
        ExportError: `write` left no file, or a link or a folder.
        InputError: The folder above is an artifact itself, or its name is not UTF-8.
        ArtifactRefused: The folder above is a link, or others may write to it.
        OutputError: The disk refused.
    """
    _check_name(folder)
    if (folder.parent / MANIFEST).exists():
        raise InputError(f"{folder.parent}: is an artifact itself; name the folder that it is in")
    _private_parents(folder)
    _remove_strays(folder)
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    with removed_on_error(part):
        part.chmod(0o700)
        relative_error = write(part)
        files = _described(part)
        document = _document(key, files, relative_error)
        with output_errors(part):
            (part / MANIFEST).write_bytes(document)
            for path in part.iterdir():
                path.chmod(0o600)
        sync_tree(part)
        _swap(part, folder)
    logger.info("artifact: %s", folder)
    return _stored(folder, _parse(folder, document))


def open_artifact(folder: Path, key: ArtifactKey) -> Path:
    """Check that an artifact may be run for `key`, and that its files are unchanged; return its folder.

    This user must have exported it on this machine: some artifacts hold native code, and the weights of all
    decide what a film shows.

    Raises:
        ArtifactMissing: The folder does not exist.
        ArtifactRefused: It has another key, was modified, or was not built by this user here.
        InputError: Its name is not UTF-8.
    """
    _check_name(folder)
    found = inspect_artifact(folder, key)
    for name, described in found.items():
        if sha256_file(folder / name) != described.sha256:
            raise ArtifactRefused(
                f"{folder / name}: is not what was published: its sha256 differs; export it again"
            )
    return folder


def inspect_artifact(folder: Path, key: ArtifactKey) -> dict[str, StoredFile]:
    """Check all but the files' digests; return the files as the manifest describes them."""
    if not folder.is_symlink() and not folder.exists():
        raise ArtifactMissing(
            f"backend {key.backend!r}: no graph is exported for this; {folder} is not there"
        )
    manifest = _read(folder)
    _check_key(folder, manifest.key, key)
    if not is_signed(_signed_part(manifest), manifest.signature):
        raise ArtifactRefused(
            f"{folder}: was not exported by you on this machine, or its manifest was changed; "
            "export it yourself"
        )
    names = {path.name for path in folder.iterdir()}
    if names != {*manifest.files, MANIFEST}:
        different = sorted(names ^ {*manifest.files, MANIFEST})
        raise ArtifactRefused(
            f"{folder}: holds other files than its manifest says: {different}; export it again"
        )
    for name, described in manifest.files.items():
        check_file(folder / name)
        size_bytes = (folder / name).stat().st_size
        if size_bytes != described.size_bytes:
            raise ArtifactRefused(
                f"{folder / name}: has {size_bytes} bytes of the {described.size_bytes} that were published; "
                "export it again"
            )
    return manifest.files


def _check_name(folder: Path) -> None:
    """Refuse a name that is not UTF-8: the libraries that load graphs take only text."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(f"{folder}: the name is not UTF-8 text; choose another folder") from None


def locate(key: ArtifactKey, *, label: str, root: Path | None) -> Path:
    """Return where to look for the artifact: `root` itself if it is an artifact, else a folder in it."""
    if root is not None and (root / MANIFEST).is_file():
        return root
    return default_folder(key, label=label, root=root)


def stored_artifacts(backend: str, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
    """Return the readable artifacts of a backend in a folder or in the user's cache, sorted by name."""
    root = folder or cache_root() / "artifacts"
    found = []
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if path.name.startswith("."):
            continue
        try:
            manifest = _read(path)
        except ArtifactRefused as error:
            logger.warning("%s", error)
            continue
        if manifest.key.backend == backend:
            found.append(_stored(path, manifest))
    return tuple(found)


def _check_key(folder: Path, found: ArtifactKey, wanted: ArtifactKey) -> None:
    different = different_fields(found, wanted)
    if different:
        raise ArtifactRefused(
            f"{folder}: is key {key_digest(found)[:12]}, wanted is {key_digest(wanted)[:12]}; "
            + "; ".join(different)
        )


def _read(folder: Path) -> _Manifest:
    check_folder(folder)
    if not _is_sticky(folder.parent):
        check_folder(folder.parent)
    path = folder / MANIFEST
    if not path.is_symlink() and not path.exists():
        raise ArtifactRefused(f"{folder}: has no {MANIFEST}: half-written, or no artifact; export it again")
    check_file(path)
    try:
        document = read_bytes(path, limit_bytes=_MAX_MANIFEST_BYTES, follow=False)
    except OSError as error:
        raise ArtifactRefused(f"{path}: cannot be read: {error.strerror}; export it again") from error
    return _parse(folder, document)


def _parse(folder: Path, document: bytes) -> _Manifest:
    try:
        manifest = _Manifest.model_validate_json(document)
    except ValidationError as error:
        raise ArtifactRefused(
            f"{folder / MANIFEST}: is not a manifest ({error.error_count()} problems); export it again"
        ) from error
    unsafe = [name for name in manifest.files if Path(name).name != name or name == MANIFEST]
    if manifest.format != _FORMAT or unsafe:
        raise ArtifactRefused(
            f"{folder / MANIFEST}: format {manifest.format!r}, files {unsafe}: not understood"
        )
    return manifest


def _document(key: ArtifactKey, files: Mapping[str, StoredFile], relative_error: float) -> bytes:
    manifest = _Manifest(
        format=_FORMAT, key=key, relative_error=relative_error, files=dict(files), signature=""
    )
    signed = manifest.model_copy(update={"signature": sign(_signed_part(manifest))})
    return (json.dumps(signed.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode("ascii")


def _signed_part(manifest: _Manifest) -> bytes:
    return json.dumps(manifest.model_dump(mode="json", exclude={"signature"}), sort_keys=True).encode()


def _described(folder: Path) -> dict[str, StoredFile]:
    found = {}
    for path in sorted(folder.iterdir()):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ExportError(f"{path.name}: an artifact holds plain files in one folder only")
        found[path.name] = StoredFile(sha256=sha256_file(path), size_bytes=path.stat().st_size)
    if not found or MANIFEST in found:
        raise ExportError(f"the backend wrote {sorted(found)}; an artifact has one file or more of its own")
    return found


def _private_parents(folder: Path) -> None:
    if folder.parent == cache_root() / "artifacts":
        private_folder(cache_root())
        private_folder(folder.parent)
        return
    make_folder(folder.parent)
    if not _is_sticky(folder.parent):
        check_folder(folder.parent)


def _is_sticky(folder: Path) -> bool:
    """Whether only their owners may rename files in a folder, as in `/tmp`."""
    return not folder.is_symlink() and bool(folder.stat().st_mode & stat.S_ISVTX)


def _swap(part: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    remove_tree(old)
    if folder.exists():
        rename_folder(folder, old)
    rename_folder(part, folder)
    remove_tree(old)


def _remove_strays(folder: Path) -> None:
    for path in folder.parent.glob(f".{folder.name}.*"):
        stray = _STRAY.fullmatch(path.name)
        if stray is not None and not is_running(int(stray["pid"])) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _stored(folder: Path, manifest: _Manifest) -> StoredArtifact:
    return StoredArtifact(
        folder=folder,
        manifest=manifest.key,
        size_bytes=sum(described.size_bytes for described in manifest.files.values()),
        relative_error=manifest.relative_error,
    )
