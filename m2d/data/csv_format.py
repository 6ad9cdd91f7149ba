"""`pretrain.csv`: a row per single-scene clip, in the official columns.

Owns reading and writing the table. Of the official columns `path` and the caption are read; frames, rate and
size are measured, because tables are wrong about them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.data.problems import Problems
from m2d.data.shot_groups import Shot, ShotGroup

COLUMNS = ("fps", "width", "height", "caption", "path", "num_frame")
# A caption fills a cell; the library's own limit is 128 KiB.
_LONGEST_CELL = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenClip:
    """One video that was written, for a table or a list of groups.

    Attributes:
        path: As the dataset is to name it.
        caption: What is seen.
        width: In pixels.
        height: In pixels.
        fps: Frames per second.
        num_frames: Frames.
        sha256: Of the file.
    """

    path: str
    caption: str
    width: int
    height: int
    fps: int
    num_frames: int
    sha256: str


def read_csv(text: str, *, name: str, root: Path, caption_field: str, problems: Problems) -> list[ShotGroup]:
    """Read a table; each row becomes a group of one shot.

    Args:
        text: The file's text.
        name: The file as the user named it; starts every place.
        root: Folder that relative paths start from.
        caption_field: The captions' column.
        problems: Receives what is wrong.
    """
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    groups: list[ShotGroup] = []
    try:
        header = next(rows, [])
        missing = [column for column in ("path", caption_field) if column not in header]
        if missing:
            found = ", ".join(header) or "nothing"
            problems.add(
                f"{name}:1",
                f"no column {' and no column '.join(missing)}; found {found}; "
                f"the columns are {','.join(COLUMNS)}",
            )
            return []
        first_line = rows.line_num + 1
        for row in rows:
            place, first_line = f"{name}:{first_line}", rows.line_num + 1
            if row:
                groups += _group(row, header, place, root, caption_field, problems)
    except csv.Error as error:
        problems.add(f"{name}:{rows.line_num}", f"not a CSV table ({error}); put cells with commas in quotes")
    return groups


def write_csv(clips: Sequence[WrittenClip]) -> str:
    """Return the official table of `clips`."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for clip in clips:
        table.writerow([clip.fps, clip.width, clip.height, clip.caption, clip.path, clip.num_frames])
    return text.getvalue()


def _group(
    row: list[str], header: list[str], place: str, root: Path, caption_field: str, problems: Problems
) -> list[ShotGroup]:
    if len(row) != len(header):
        problems.add(place, f"{len(row)} cells, but the table has {len(header)} columns")
        return []
    cells = dict(zip(header, row, strict=True))
    video = problems.video(place, "path", cells["path"], root=root)
    if video is None:
        return []
    shot = Shot(video=video, caption=cells[caption_field], place=place)
    return [ShotGroup(shots=(shot,), place=place)]
