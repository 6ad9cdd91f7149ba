"""The folder of an unfinished run, `NAME.m2d/journal/`: file names, formats and digests.

Owns the format on disk; `journal` decides when files are written. Imports no torch.
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from m2d.errors import InputError, OutputError
from m2d.files import remove_file, write_bytes, write_json
from m2d.folders import remove_empty_folder
from m2d.reading import memory_limit_bytes, read_bytes
from m2d.tensor_files import read_header as read_tensor_header
from m2d.video.run_folder import run_folder_of

SCHEMA_VERSION = 1
FOLDER = "journal"
HEADER, STEP, MADE = "journal.json", "step.safetensors", "made.json"
# The entry of a request that may differ in a resumed run.
MACHINES = "machines"
# The entry of a run that holds the digest of what takes part in its denoising.
DENOISER = "denoiser_sha256"
LONGEST_DOCUMENT_BYTES = 32 << 20
_OURS = re.compile(r"(journal|made)\.json|(step|window-\d{3,})\.safetensors|made-[0-9a-f]{64}")
_NO_DIGEST = "0" * 64


class CorruptFileError(InputError):
    """A file of a journal differs from what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What identifies an unfinished run; written before its first step.

    Attributes:
        journal: Random name of the run; every file of the journal carries it.
        request: Everything the film depends on, as JSON; `machines` holds the `MachineRecord` of each run.
        versions: Package to version; one entry for each set of versions that worked on the run.
        window_steps: Number of denoising steps of every window.
        force: Whether an existing film may be replaced.
    """

    journal: str
    request: Mapping[str, Any]
    versions: tuple[Mapping[str, str], ...]
    window_steps: tuple[int, ...]
    force: bool

    @property
    def num_windows(self) -> int:
        """Number of windows."""
        return len(self.window_steps)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Machine:
    """The part of a `MachineRecord` that a resumed run needs."""

    num_threads: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """The part of a run's request that a resumed run reads; all is compared with the new request's."""

    recipe: Mapping[str, Any] = field(default_factory=dict)


_HEADER = TypeAdapter(Header)
_RUNS = TypeAdapter(list[_Run])
_MACHINES = TypeAdapter(list[_Machine])


def journal_folder_of(film: Path) -> Path:
    """`out/NAME.m2d/journal` for `out/NAME.mp4`."""
    return run_folder_of(film) / FOLDER


def has_journal(film: Path) -> bool:
    """Whether an unfinished run of `film` exists, corrupt or not.

    Raises:
        OutputError: The run folder cannot be read.
    """
    return _is_header_there(journal_folder_of(film))


def _is_header_there(folder: Path) -> bool:
    try:
        (folder / HEADER).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            # No folder has such a name; writing the film reports it.
            return False
        raise OutputError(
            f"{folder.parent}: cannot be read: {error.strerror}; give a run folder you may read"
        ) from error
    return True


def is_there(path: Path) -> bool:
    """Whether a file exists, readable or not."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_request(film: Path) -> dict[str, Any] | None:
    """Return the request of the unfinished run of `film`; None if there is no such run.

    Raises:
        CorruptFileError: The journal's header is corrupt.
    """
    header = read_header(journal_folder_of(film))
    return None if header is None else dict(header.request)


def window_path(folder: Path, index: int) -> Path:
    """Path of a finished window's latents."""
    return folder / f"window-{index:03d}.safetensors"


def made_path(folder: Path, digest: str) -> Path:
    """Path of an output file, named by its sha256: a new version never overwrites an older one."""
    return folder / f"made-{digest}"


def files_of(folder: Path) -> list[Path]:
    """List the journal's own files, the header first; other files in the folder are left out."""
    if not folder.is_dir():
        return []
    ours = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
    return sorted(ours, key=lambda path: (path.name != HEADER, path.name))


def discard(folder: Path) -> None:
    """Remove a journal, its header first: without a header, the remaining files are no longer a journal."""
    for path in files_of(folder):
        remove_file(path)
    if folder.is_dir():
        remove_empty_folder(folder)


def write_header(folder: Path, header: Header) -> None:
    """Write or replace the header."""
    write_document(folder / HEADER, asdict(header))


def read_header(folder: Path) -> Header | None:
    """Read the header; None if there is no journal.

    Raises:
        CorruptFileError: It differs from what was written.
        OutputError: The run folder cannot be read.
    """
    if not _is_header_there(folder):
        return None
    path = folder / HEADER
    document = read_document(path)
    try:
        header = _HEADER.validate_python(document)
        _MACHINES.validate_python(header.request.get(MACHINES, []))
        _RUNS.validate_python(header.request.get("runs", []))
    except ValidationError as error:
        raise CorruptFileError(f"{path}: is not the header of a run") from error
    return header


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON with its own digest. Raises as `m2d.files.write_bytes`, as do the other writers here."""
    versioned = {"m2d_journal": SCHEMA_VERSION, **document}
    write_json(path, {**versioned, "sha256": _document_digest(versioned)})


def read_document(path: Path) -> dict[str, Any]:
    """Read a file of `write_document`.

    Raises:
        CorruptFileError: It differs from what was written.
    """
    try:
        document: dict[str, Any] = json.loads(_read(path, limit=LONGEST_DOCUMENT_BYTES))
        is_sound = isinstance(document, dict) and document.pop("sha256", None) == _document_digest(document)
    except (ValueError, RecursionError) as error:
        raise CorruptFileError(f"{path}: is not JSON") from error
    if not is_sound:
        raise CorruptFileError(f"{path}: was changed since it was written")
    if document.pop("m2d_journal", None) != SCHEMA_VERSION:
        raise CorruptFileError(
            f"{path}: is not of version {SCHEMA_VERSION}; finish it with the version of m2d that started it"
        )
    return document


def write_tensors(path: Path, data: bytes) -> None:
    """Write a safetensors file whose metadata is from `unsealed_facts`, with its own digest filled in."""
    if _digest_field(_NO_DIGEST) not in data:
        raise ValueError("these tensors were not serialized with unsealed_facts")
    digest = hashlib.sha256(data).hexdigest()
    write_bytes(path, data.replace(_digest_field(_NO_DIGEST), _digest_field(digest), 1))


def unsealed_facts(header: Header, **facts: int | str) -> dict[str, str]:
    """Return metadata for `write_tensors`: the facts, the journal's name and an empty digest."""
    texts = {name: str(value) for name, value in facts.items()}
    return {**texts, "journal": header.journal, "sha256": _NO_DIGEST}


def read_tensors(path: Path, header: Header) -> tuple[bytes, Mapping[str, str]]:
    """Return a verified safetensors file of this journal, and the facts in its metadata.

    Raises:
        CorruptFileError: It differs from what was written, or another run wrote it.
    """
    try:
        # Before anything is read: a file that grew has bytes that belong to no tensor.
        facts = read_tensor_header(path, limit_bytes=memory_limit_bytes()).metadata
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read: {error.strerror}") from error
    if facts.get("journal") != header.journal:
        raise CorruptFileError(f"{path}: was written by another run")
    data = _read(path, limit=memory_limit_bytes())
    digest = facts.get("sha256", "")
    unsealed = data.replace(_digest_field(digest), _digest_field(_NO_DIGEST), 1)
    if hashlib.sha256(unsealed).hexdigest() != digest:
        raise CorruptFileError(f"{path}: was changed since it was written")
    return data, facts


def read_made(folder: Path, digest: str, *, limit_bytes: int) -> bytes:
    """Read the file at `made_path`.

    Args:
        limit_bytes: Largest size that it can have.

    Raises:
        CorruptFileError: It differs from what was written.
    """
    path = made_path(folder, digest)
    data = _read(path, limit=limit_bytes)
    if hashlib.sha256(data).hexdigest() != digest:
        raise CorruptFileError(f"{path}: was changed since it was written")
    return data


def _digest_field(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _document_digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _read(path: Path, *, limit: int) -> bytes:
    try:
        return read_bytes(path, limit_bytes=limit)
    except OSError as error:
        raise CorruptFileError(f"{path}: cannot be read: {error.strerror}") from error
