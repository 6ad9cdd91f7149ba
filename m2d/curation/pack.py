"""Stage `pack`: a data set that `m2d train` reads, and the official files beside it on request.

`stories.jsonl` names spans of the films, so no picture is encoded again. The official formats have no spans:
for them every shot becomes a video file.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from m2d import disk
from m2d.curation.filter import shot_id
from m2d.curation.relate import Group
from m2d.curation.scan import ClipRange, Film
from m2d.curation.shots import Shot, range_frames
from m2d.curation.stage_file import Outcome, key_of
from m2d.data.csv_format import WrittenClip
from m2d.data.jsonl_format import VERSION
from m2d.files import publish, sha256_file
from m2d.folders import make_folder
from m2d.video.clip_writer import ENCODER, ClipWriter
from m2d.video.open_film import FilmError

DESCRIPTION, OFFICIAL, VIDEOS = "stories.jsonl", "official", "videos"
_VERSION = "pack/2"
_CRF = 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """One story of the data set.

    Attributes:
        number: Its line in the description, from 0.
        captions: One per shot.
        caption_by: Where the captions come from: `sidecar`, the name of a model, or empty.
    """

    number: int
    group: Group
    captions: tuple[str, ...]
    caption_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoTask:
    """One shot to write as a video file; `place` is its path below the folder of official files."""

    path: Path
    film: Film
    shot: Shot
    caption: str
    folder: Path
    place: str
    key: str


def story_line(story: Story, *, films: Path, data_set: Path) -> str:
    """Return a story's line of `stories.jsonl`; paths start from the data set."""
    sims = ("", *map(str, story.group.similarities))
    scenes = [
        {
            "video": os.path.relpath(films / shot.film, data_set).replace(os.sep, "/"),
            "start_s": shot.start_s,
            "end_s": shot.end_s,
            "caption": caption,
            "caption_by": story.caption_by,
            "sha256": shot.sha256,
            "fps": shot.fps,
            "width": shot.width,
            "height": shot.height,
            "num_frames": shot.num_frames,
            "relevance": float(similarity) if similarity else None,
        }
        for shot, caption, similarity in zip(story.group.shots, story.captions, sims, strict=True)
    ]
    document = {"m2d": VERSION, "story": f"story-{story.number:06d}", "scenes": scenes}
    return f"{json.dumps(document, ensure_ascii=False)}\n"


def video_key(shot: Shot, caption: str, name: str) -> str:
    """Return the key of a written shot."""
    return key_of(_VERSION, shot_id(shot), caption, name, sorted(ENCODER.items()), _CRF)


def write_video(task: VideoTask) -> Outcome[WrittenClip]:
    """Write one shot as H.264; equal shots give equal bytes."""
    path = task.folder / task.place
    shot = task.shot
    clip = ClipRange(film=task.film, start_s=shot.start_s, end_s=shot.end_s)
    make_folder(path.parent)
    try:
        with publish(path, force=True) as part, disk.output_errors(path):
            width, height, count = _encode(part, task.path, clip)
    except FilmError as error:
        reason = str(error).removeprefix(f"{task.path}: ")
        return Outcome(key=task.key, place=task.place, reason=reason)
    fps = round(shot.fps) if abs(shot.fps - round(shot.fps)) < 1e-3 else round(shot.fps, 3)
    written = WrittenClip(
        video=task.place,
        caption=task.caption,
        sha256=sha256_file(path),
        fps=fps,
        width=width,
        height=height,
        num_frames=count,
    )
    return Outcome(key=task.key, place=task.place, outputs=(written,))


def _encode(part: Path, source: Path, clip: ClipRange) -> tuple[int, int, int]:
    """Encode a range; return width, height and number of frames."""
    film = clip.film
    with (
        contextlib.closing(range_frames(source, clip)) as frames,
        ClipWriter(part, width=film.width, height=film.height, fps=film.fps, crf=_CRF) as writer,
    ):
        for time_s, frame in frames:
            writer.add(time_s, frame)
    return writer.width, writer.height, writer.num_frames
