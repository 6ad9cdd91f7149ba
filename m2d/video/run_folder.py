"""The run folder beside a film, `NAME.m2d/`: the run's record, its latents and the contact sheet.

Owns its files and their digests. F latent frames, C channels, H W latent height and width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors.numpy import save as save_safetensors

from m2d.errors import InputError, OutputError, Remedy
from m2d.files import sha256_file, write_bytes, write_json
from m2d.folders import make_folder
from m2d.reading import check_regular, memory_limit_bytes, read_bytes
from m2d.tensor_files import load_arrays
from m2d.video.digests import array_digest
from m2d.video.provenance import Provenance, parse_provenance, seal_provenance

SCHEMA_VERSION = 1
RECORD, LATENTS, SHEET = "run.json", "latents.safetensors", "sheet.png"
LONGEST_RECORD_BYTES = 32 << 20
# The largest sheet, of 500 scenes, has a few hundred megabytes of pixels, before it is compressed.
LARGEST_SHEET_BYTES = 256 << 20
_MOST_LATENT_BYTES_PER_PIXEL = 64


class RunFolderError(InputError):
    """A run folder that is missing, incomplete, changed, or belongs to another film."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Contents of a run folder.

    Attributes:
        latents_FCHW: Denoised latents of each scene; None for external video that was never encoded.
    """

    provenance: Provenance
    timings_s: Mapping[str, float]
    latents_FCHW: tuple[np.ndarray | None, ...]


def run_folder_of(film: Path) -> Path:
    """`out/NAME.m2d` for `out/NAME.mp4`."""
    return film.with_suffix(".m2d")


def check_run_folder(film: Path, *, force: bool) -> None:
    """Check, before any work, that the run folder of `film` can be written.

    Raises:
        OutputError: A file has the folder's name, or a run is in it already and `force` is not set.
    """
    folder = run_folder_of(film)
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            f"{folder}: is a file, but the run's folder goes there; move it or choose another output"
        )
    if not force and (folder / RECORD).exists():
        raise OutputError(f"{folder}: holds another run", remedy=Remedy.OVERWRITE)


def finish_run(
    film: Path,
    *,
    provenance: Provenance,
    files: Mapping[str, bytes],
    timings_s: Mapping[str, float],
    costs: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """Write and return the run folder of `film`, the record last; existing files are replaced.

    Args:
        files: Name to bytes: `latents_bytes`, and the contact sheet.
        costs: What was predicted, and the peak memory of every stage, as JSON values.
    """
    folder = run_folder_of(film)
    make_folder(folder)
    for name, data in files.items():
        write_bytes(folder / name, data)
    record = {
        "m2d_run": SCHEMA_VERSION,
        "provenance": json.loads(seal_provenance(provenance)),
        "timings_s": dict(timings_s),
        **costs,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    write_json(folder / RECORD, record)
    return folder


def read_run(film: Path) -> Run:
    """Read the run folder of `film` and verify it by its digests.

    Raises:
        RunFolderError: Missing, incomplete or changed.
        ProvenanceError: Its provenance is corrupt.
    """
    folder = run_folder_of(film)
    record = _read_record(folder / RECORD)
    provenance = parse_provenance(json.dumps(record["provenance"]))
    path = folder / LATENTS
    limit_bytes = _most_latents_bytes(provenance)
    _check_file(path, digest=record["files"].get(LATENTS), limit_bytes=limit_bytes)
    digests = [scene.latents_sha256 for scene in provenance.scenes]
    wanted = [digest is not None for digest in digests]
    latents = _read_latents(path, wanted=wanted, limit_bytes=limit_bytes)
    for index, (digest, latents_FCHW) in enumerate(zip(digests, latents, strict=True)):
        if latents_FCHW is not None and array_digest(latents_FCHW) != digest:
            raise RunFolderError(
                f"{path}: the latents of scene {index} are not those of the film; restore them"
            )
    return Run(provenance=provenance, timings_s=record["timings_s"], latents_FCHW=latents)


def read_sheet(film: Path) -> bytes:
    """Read the contact sheet beside `film`; empty when it is missing or was changed."""
    folder = run_folder_of(film)
    try:
        digest = _read_record(folder / RECORD)["files"].get(SHEET)
        data = read_bytes(folder / SHEET, limit_bytes=LARGEST_SHEET_BYTES)
    except (RunFolderError, OSError):
        return b""
    return data if hashlib.sha256(data).hexdigest() == digest else b""


def latents_bytes(latents_FCHW: Sequence[np.ndarray | None]) -> bytes:
    """Return the bytes of `latents.safetensors`: one float array per scene that has latents."""
    tensors = {
        _key(index): np.ascontiguousarray(latents)
        for index, latents in enumerate(latents_FCHW)
        if latents is not None
    }
    data: bytes = save_safetensors(tensors)
    return data


def _key(index: int) -> str:
    return f"scene_{index:03d}"


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(read_bytes(path, limit_bytes=LONGEST_RECORD_BYTES))
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be read: {error.strerror}; it was made beside the film"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path}: is not JSON; restore it or remove the folder") from error
    if not isinstance(record, dict) or record.get("m2d_run") != SCHEMA_VERSION:
        raise RunFolderError(
            f"{path}: is not the record of a run of version {SCHEMA_VERSION}; remove the folder"
        )
    for key in ("provenance", "timings_s", "files"):
        if not isinstance(record.get(key), dict):
            raise RunFolderError(
                f"{path}: {key} is missing or not an object; restore it or remove the folder"
            )
    return record


def _most_latents_bytes(provenance: Provenance) -> int:
    """Return more bytes than the latents of such a film have: a latent is smaller than its pixels."""
    video = provenance.video
    num_pixels = provenance.num_frames * video.width * video.height
    return min(_MOST_LATENT_BYTES_PER_PIXEL * num_pixels + (1 << 20), memory_limit_bytes())


def _check_file(path: Path, *, digest: object, limit_bytes: int) -> None:
    try:
        check_regular(path, limit_bytes=limit_bytes)
        found = sha256_file(path)
    except FileNotFoundError as error:
        raise RunFolderError(f"{path}: is missing; the run folder is incomplete") from error
    except OSError as error:
        raise RunFolderError(
            f"{path}: cannot be read: {error.strerror}; restore it or remove the folder"
        ) from error
    if found != digest:
        raise RunFolderError(f"{path}: was changed since it was written; restore it or remove the folder")


def _read_latents(path: Path, *, wanted: Sequence[bool], limit_bytes: int) -> tuple[np.ndarray | None, ...]:
    try:
        tensors = load_arrays(path, limit_bytes=limit_bytes)
    except OSError as error:
        raise RunFolderError(
            f"{path}: is not a file of latents: {error.strerror}; restore it or remove the folder"
        ) from error
    if set(tensors) != {_key(index) for index, is_wanted in enumerate(wanted) if is_wanted}:
        raise RunFolderError(f"{path}: holds {len(tensors)} scenes, the film {sum(wanted)}; restore it")
    if any(latents.ndim != 4 or latents.dtype.kind != "f" for latents in tensors.values()):
        raise RunFolderError(f"{path}: holds something other than FCHW float latents; restore it")
    return tuple(tensors.get(_key(index)) for index in range(len(wanted)))
