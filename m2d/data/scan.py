"""Decode all videos of a dataset once before training.

Owns the cache of earlier scans: a video that has not been written to since is not decoded again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from m2d.data.dataset_text import Shot, ShotGroup
from m2d.data.decode import Broken, VideoFacts, file_identity, scan_video
from m2d.data.decoder_pool import DecoderPool
from m2d.files import write_json
from m2d.folders import make_folder
from m2d.progress import Reporter
from m2d.reading import parse_json, read_bytes
from m2d.stop import StopRequest
from m2d.video.treatment import READING

# Raise it when the scan measures more, or rejects more.
_FORMAT = f"m2d.scan/3 {READING}"
# Two writes within one clock tick of the disk look the same, so the facts of a new file are not cached.
_SETTLED_NS = 2_000_000_000
# Broken videos are cached, too, except where a busy machine may be the cause.
_REASONS_NOT_CACHED = ("is not decoded after", "crashes the decoder")
_LONGEST_FACTS_BYTES = 1 << 20
_FACTS = TypeAdapter(VideoFacts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """One video after the scan.

    Attributes:
        identity: The file's `file_identity`; empty when there is no such file.
        found: The video's facts, or why it cannot be used.
    """

    identity: str
    found: VideoFacts | Broken


@dataclass(frozen=True, kw_only=True, slots=True)
class ScannedData:
    """A dataset's description, and its videos after the scan."""

    groups: list[ShotGroup]
    scanned: dict[Path, Scanned]


def why_unusable(shot: Shot, found: VideoFacts | Broken) -> str:
    """Say why the video of a shot cannot be used, as words behind its name; empty when it can."""
    if isinstance(found, Broken):
        return found.reason
    if shot.sha256 not in (None, found.sha256):
        return f"is not the file that the dataset describes: its sha256 is {found.sha256}"
    return ""


def scan_videos(
    videos: Sequence[Path], *, pool: DecoderPool, memory: Path, reporter: Reporter, stop: StopRequest
) -> dict[Path, Scanned]:
    """Decode every video once, however often it is named; `memory` is the cache folder.

    Raises:
        Interrupted: A stop was requested; the scans so far are cached.
    """
    identities = {video: _identity(video) for video in dict.fromkeys(videos)}
    scanned = {video: _remembered(memory, identity) for video, identity in identities.items()}
    unknown = [video for video, found in scanned.items() if found is None]
    if unknown:
        make_folder(memory)
        with reporter.stage("scan videos", total=len(unknown)) as progress:
            for video, found in pool.map(scan_video, unknown):
                scanned[video] = found
                _remember(memory, identities[video], found)
                progress.advance()
                stop.check("while scanning videos: run the same command again")
    return {
        video: Scanned(identity=identities[video], found=found)
        for video, found in scanned.items()
        if found is not None
    }


def _identity(video: Path) -> str:
    try:
        return file_identity(video)
    except OSError:
        return ""


def _file(memory: Path, identity: str) -> Path:
    return memory / f"{hashlib.sha256(f'{_FORMAT} {identity}'.encode()).hexdigest()[:40]}.json"


def _remembered(memory: Path, identity: str) -> VideoFacts | Broken | None:
    path = _file(memory, identity)
    if not identity or not path.is_file():
        return None
    try:
        cached: dict[str, Any] = parse_json(read_bytes(path, limit_bytes=_LONGEST_FACTS_BYTES))
        if cached["identity"] != identity:
            return None
        return (
            Broken(reason=cached["broken"]) if "broken" in cached else _FACTS.validate_python(cached["facts"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        # Ignore a corrupt cache file: the video is scanned again and the file replaced.
        return None


def _remember(memory: Path, identity: str, found: VideoFacts | Broken) -> None:
    if not identity or time.time_ns() - int(identity.split()[-1]) < _SETTLED_NS:
        return
    if isinstance(found, Broken):
        if not found.reason.startswith(_REASONS_NOT_CACHED):
            write_json(_file(memory, identity), {"identity": identity, "broken": found.reason})
        return
    write_json(_file(memory, identity), {"identity": identity, "facts": asdict(found)})
