"""The folder of an unfinished run, `NAME.m2d/journal/`: its files' names, and how each of them proves itself.

Owns the form on disk; what is kept when, and what counts of it, is the business of `journal`. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m2d.errors import InputError
from m2d.files import remove_file, write_bytes, write_json
from m2d.folders import remove_empty_folder
from m2d.video.run_folder import run_folder_of

SCHEMA_VERSION = 1
FOLDER = "journal"
HEADER, STEP, MADE = "journal.json", "step.safetensors", "made.json"
LONGEST_DOCUMENT_BYTES = 32 << 20
_OURS = re.compile(r"(journal|made)\.json|(step|window-\d{3,})\.safetensors|made-[0-9a-f]{64}")
_NO_DIGEST = "0" * 64
_HEADER_SIZE = struct.Struct("<Q")


class DamagedFileError(InputError):
    """A file of a journal that is not what was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What an unfinished run is: written before its first step.

    Attributes:
        journal: Names this one run; all files of the journal carry it.
        request: All that the film depends on, as JSON.
        versions: What the run was made with, package to version; one entry for each change so far.
        window_steps: Denoising steps of every window.
        force: Whether an existing film may be replaced.
    """

    journal: str
    request: Mapping[str, Any]
    versions: tuple[Mapping[str, str], ...]
    window_steps: tuple[int, ...]
    force: bool

    @property
    def num_windows(self) -> int:
        """Windows to denoise."""
        return len(self.window_steps)


class SealedTensors(NamedTuple):
    """A safetensors file whose every byte was verified, and the facts in its metadata."""

    data: bytes
    facts: dict[str, str]


def journal_folder_of(film: Path) -> Path:
    """`out/NAME.m2d/journal` for `out/NAME.mp4`."""
    return run_folder_of(film) / FOLDER


def has_journal(film: Path) -> bool:
    """Whether an unfinished run of `film` is there, sound or not."""
    return is_there(journal_folder_of(film) / HEADER)


def is_there(path: Path) -> bool:
    """Whether a file is there, be it one that cannot be read: reading it then tells why not."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read_request(film: Path) -> dict[str, Any] | None:
    """The request of the unfinished run of `film`; None: there is no such run.

    Raises:
        DamagedFileError: There is one, but what it was asked cannot be read any more.
    """
    header = read_header(journal_folder_of(film))
    return None if header is None else dict(header.request)


def window_path(folder: Path, index: int) -> Path:
    """The file of a finished window's latents."""
    return folder / f"window-{index:03d}.safetensors"


def made_path(folder: Path, digest: str) -> Path:
    """The file with the bytes of this sha256; none is overwritten, so that an older record stays true."""
    return folder / f"made-{digest}"


def files_of(folder: Path) -> list[Path]:
    """The journal's own files, its header first; what somebody else put there is none of them."""
    if not folder.is_dir():
        return []
    ours = [path for path in folder.iterdir() if _OURS.fullmatch(path.name)]
    return sorted(ours, key=lambda path: (path.name != HEADER, path.name))


def discard(folder: Path) -> None:
    """Remove a journal, its header first: what an interruption leaves is none, and goes the next time.

    Raises:
        OutputError: The disk refused.
    """
    for path in files_of(folder):
        remove_file(path)
    if folder.is_dir():
        remove_empty_folder(folder)


def write_header(folder: Path, header: Header) -> None:
    """Write or replace the header.

    Raises:
        OutputError: The disk refused.
    """
    write_document(folder / HEADER, asdict(header))


def read_header(folder: Path) -> Header | None:
    """Read the header; None: there is no journal.

    Raises:
        DamagedFileError: It is not what was written.
    """
    path = folder / HEADER
    if not is_there(path):
        return None
    document = read_document(path)
    try:
        tuples = {name: tuple(document[name]) for name in ("versions", "window_steps")}
        return Header(**{**document, **tuples})
    except (KeyError, TypeError) as error:
        raise DamagedFileError(f"{path}: is not the beginning of a run") from error


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write JSON with a digest of itself.

    Raises:
        OutputError: The disk refused.
    """
    versioned = {"m2d_journal": SCHEMA_VERSION, **document}
    write_json(path, {**versioned, "sha256": _document_digest(versioned)})


def read_document(path: Path) -> dict[str, Any]:
    """Read what `write_document` wrote.

    Raises:
        DamagedFileError: It is not what was written.
    """
    try:
        document: dict[str, Any] = json.loads(_read(path, limit=LONGEST_DOCUMENT_BYTES))
        is_sound = isinstance(document, dict) and document.pop("sha256", None) == _document_digest(document)
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(f"{path}: is not JSON") from error
    if not is_sound:
        raise DamagedFileError(f"{path}: was changed since it was written")
    if document.pop("m2d_journal", None) != SCHEMA_VERSION:
        raise DamagedFileError(
            f"{path}: is not of version {SCHEMA_VERSION}; finish it with the m2d that began it"
        )
    return document


def write_tensors(path: Path, data: bytes) -> None:
    """Write a safetensors file that `unsealed_facts` began, with a digest of itself in its metadata.

    Raises:
        OutputError: The disk refused.
        ValueError: `data` has no place for the digest.
    """
    if _digest_field(_NO_DIGEST) not in data:
        raise ValueError("these tensors were not serialized with unsealed_facts")
    digest = hashlib.sha256(data).hexdigest()
    write_bytes(path, data.replace(_digest_field(_NO_DIGEST), _digest_field(digest), 1))


def unsealed_facts(header: Header, **facts: int | str) -> dict[str, str]:
    """The metadata to serialize tensors with, for `write_tensors`: whose they are, and what they are."""
    told = {name: str(value) for name, value in facts.items()}
    return {**told, "journal": header.journal, "sha256": _NO_DIGEST}


def read_tensors(path: Path, header: Header) -> SealedTensors:
    """Read and verify a safetensors file of this journal.

    Raises:
        DamagedFileError: It is not what was written, or another run wrote it.
    """
    data = _read(path)
    facts = _facts(path, data)
    digest = facts.get("sha256", "")
    unsealed = data.replace(_digest_field(digest), _digest_field(_NO_DIGEST), 1)
    if hashlib.sha256(unsealed).hexdigest() != digest:
        raise DamagedFileError(f"{path}: was changed since it was written")
    if facts.get("journal") != header.journal:
        raise DamagedFileError(f"{path}: was written by another run")
    return SealedTensors(data, facts)


def read_made(folder: Path, digest: str) -> bytes:
    """Read the file at `made_path`.

    Raises:
        DamagedFileError: It is not what was written.
    """
    path = made_path(folder, digest)
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedFileError(f"{path}: was changed since it was written")
    return data


def _facts(path: Path, data: bytes) -> dict[str, str]:
    try:
        (size_bytes,) = _HEADER_SIZE.unpack_from(data)
        facts = json.loads(data[_HEADER_SIZE.size : _HEADER_SIZE.size + size_bytes])["__metadata__"]
    except (struct.error, ValueError, RecursionError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path}: is not a file of tensors with a digest") from error
    if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise DamagedFileError(f"{path}: is not a file of tensors with a digest")
    return facts


def _digest_field(digest: str) -> bytes:
    return f'"sha256":"{digest}"'.encode()


def _document_digest(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _read(path: Path, *, limit: int | None = None) -> bytes:
    try:
        if limit is not None and path.stat().st_size > limit:
            raise DamagedFileError(f"{path}: has more than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DamagedFileError(f"{path}: cannot be read: {error.strerror}") from error
