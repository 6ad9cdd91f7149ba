"""Look through all videos of a dataset before anything is learned from them.

Owns the order, and the memory of earlier scans: a video not written to since is not decoded again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d.data.decode import Broken, file_identity, scan_video
from m2d.data.decoder_pool import DecoderPool
from m2d.data.video_facts import VideoFacts
from m2d.errors import Interrupted
from m2d.files import make_folder, write_json
from m2d.progress import Reporter
from m2d.stop import StopRequest

# Raise it when the scan finds out more, or takes for broken what it did not.
_FORMAT = "m2d.scan/1"
# A file written to twice within a clock tick of the disk looks the same; its facts are not kept.
_SETTLED_NS = 2_000_000_000
# The memory of broken videos is kept, too, except of those that may have been a busy machine's fault.
_CONTENT_PREFIXES_NOT_KEPT = ("is not decoded after", "crashes the decoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class Scanned:
    """One video after the scan.

    Attributes:
        identity: The file's, see `file_identity`; empty when there is no such file.
        found: What it is, or why it cannot be used.
    """

    identity: str
    found: VideoFacts | Broken


def scan_videos(
    videos: Sequence[Path], *, pool: DecoderPool, memory: Path, reporter: Reporter, stop: StopRequest
) -> dict[Path, Scanned]:
    """Decode every video once.

    Args:
        videos: Files; each is scanned once, however often it is named.
        pool: Where decoding is done.
        memory: Folder of what earlier scans found.

    Raises:
        Interrupted: A stop was asked for; what was scanned is remembered.
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
                if stop.reason:
                    raise Interrupted(f"{stop.reason} while scanning videos: run the same command again")
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
        told: dict[str, Any] = json.loads(path.read_text("ascii"))
        if told["identity"] != identity:
            return None
        return Broken(reason=told["broken"]) if "broken" in told else VideoFacts.from_json(told["facts"])
    except (OSError, ValueError, KeyError, TypeError):
        # A damaged memory is none: the video is scanned again and the file replaced.
        return None


def _remember(memory: Path, identity: str, found: VideoFacts | Broken) -> None:
    if not identity or time.time_ns() - int(identity.split()[-1]) < _SETTLED_NS:
        return
    if isinstance(found, Broken):
        if not found.reason.startswith(_CONTENT_PREFIXES_NOT_KEPT):
            write_json(_file(memory, identity), {"identity": identity, "broken": found.reason})
        return
    write_json(_file(memory, identity), {"identity": identity, "facts": found.as_json()})
