"""`pretrain.csv`: a row per single-scene clip, in the official columns.

Reads and writes the table. Only `path` and the caption are read of the official columns; number of frames,
rate and size are measured, because tables are often wrong about them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from m2d.data.dataset_text import DatasetText, Shot, ShotGroup
from m2d.recipe.places import show

COLUMNS = ("fps", "width", "height", "caption", "path", "num_frame")
# The csv module's own limit of 128 KiB is too small for captions.
_LONGEST_CELL = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenClip:
    """One video that was written, with the keys of JSON Lines; its path starts from the dataset's folder."""

    video: str
    caption: str
    sha256: str
    fps: float
    width: int
    height: int
    num_frames: int


def read_csv(dataset: DatasetText) -> list[ShotGroup]:
    """Read a table; each row becomes a group of one shot."""
    csv.field_size_limit(_LONGEST_CELL)
    rows = csv.reader(io.StringIO(dataset.text, newline=""), strict=True)
    groups: list[ShotGroup] = []
    try:
        header = next(rows, [])
        missing = [column for column in ("path", dataset.caption_field) if column not in header]
        if missing:
            found = ", ".join(header) or "nothing"
            dataset.problems.add(
                f"{dataset.name}:1",
                f"no column {' and no column '.join(missing)}; found {found}; "
                f"the columns are {','.join(COLUMNS)}",
            )
            return []
        repeated = [name for name in dict.fromkeys(header) if name and header.count(name) > 1]
        if repeated:
            names = ", ".join(show(name) for name in repeated)
            dataset.problems.add(f"{dataset.name}:1", f"duplicate column {names}; keep one of each")
            return []
        columns = {name: column for column, name in enumerate(header)}
        path, caption = columns["path"], columns[dataset.caption_field]
        first_line = rows.line_num + 1
        for row in rows:
            place, first_line = f"{dataset.name}:{first_line}", rows.line_num + 1
            if not row:
                continue
            if len(row) != len(header):
                dataset.problems.add(place, f"{len(row)} cells, but the table has {len(header)} columns")
                continue
            video = dataset.video(place, "path", row[path])
            if video is not None:
                shot = Shot(video=video, caption=row[caption], place=place)
                groups.append(ShotGroup(shots=(shot,), place=place))
    except csv.Error as error:
        reason = f"not a CSV table ({error}); put cells with commas in quotes"
        dataset.problems.add(f"{dataset.name}:{rows.line_num}", reason)
    return groups


def write_csv(clips: Sequence[WrittenClip]) -> str:
    """Return the official table of `clips`."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for clip in clips:
        table.writerow([clip.fps, clip.width, clip.height, clip.caption, clip.video, clip.num_frames])
    return text.getvalue()
