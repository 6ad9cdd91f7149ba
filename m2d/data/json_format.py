"""`sft.json`: a list of shot groups, in the official fields.

Reads and writes the list. Only `values[].url` and the caption are read of the official fields; number of
frames, rate and size are measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from m2d.data.csv_format import WrittenClip
from m2d.data.dataset_text import DatasetText, Shot, ShotGroup
from m2d.data.json_text import read_json_value
from m2d.recipe.places import show

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(dataset: DatasetText) -> list[ShotGroup]:
    """Read a list of groups."""
    groups = []
    try:
        for place, item in _items(dataset):
            groups += _group(item, place=place, dataset=dataset)
    except json.JSONDecodeError as error:
        dataset.problems.add(f"{dataset.name}:{error.lineno}", f"not valid JSON: {error.msg.lower()}")
    return groups


def write_json_groups(groups: Sequence[Sequence[WrittenClip]]) -> str:
    """Return the official list of `groups`."""
    document = [
        {
            "prefix": f"story-{number:06d}",
            "values": [
                {
                    "vid": Path(clip.video).stem,
                    "width": clip.width,
                    "height": clip.height,
                    "duration": clip.num_frames / clip.fps,
                    "fps": clip.fps,
                    "url": clip.video,
                    "caption": clip.caption,
                }
                for clip in clips
            ],
        }
        for number, clips in enumerate(groups)
    ]
    return f"{json.dumps(document, indent=2, ensure_ascii=False)}\n"


def _items(dataset: DatasetText) -> Iterator[tuple[str, Any]]:
    """Yield the list's items with their places: the json module keeps no line numbers."""
    text = dataset.text
    offset = _skip(text, 0)
    if text[offset : offset + 1] != "[":
        raise json.JSONDecodeError("expected a list of groups, starting with [", text, offset)
    offset = _skip(text, offset + 1)
    line, counted = 1, 0
    while text[offset : offset + 1] != "]":
        line, counted = line + text.count("\n", counted, offset), offset
        place = f"{dataset.name}:{line}"
        try:
            item, offset = read_json_value(text, offset)
        except json.JSONDecodeError:
            raise
        except ValueError as error:
            # Nobody knows where the next item starts.
            dataset.problems.add(place, str(error))
            return
        yield place, item
        offset = _skip(text, offset)
        if text[offset : offset + 1] == ",":
            offset = _skip(text, offset + 1)
        elif text[offset : offset + 1] != "]":
            raise json.JSONDecodeError("expected , or ]", text, offset)
    end = _skip(text, offset + 1)
    if end < len(text):
        raise json.JSONDecodeError("something follows the list", text, end)


def _skip(text: str, offset: int) -> int:
    match = _SPACE.match(text, offset)
    return match.end() if match else offset


def _group(item: Any, *, place: str, dataset: DatasetText) -> list[ShotGroup]:
    values = item.get("values") if isinstance(item, dict) else None
    if not isinstance(values, list) or not values:
        dataset.problems.add(place, "a group without values; it needs a list of shots named values")
        return []
    shots, caption_field = [], dataset.caption_field
    for number, value in enumerate(values):
        field = f"values[{number}]"
        if not isinstance(value, dict):
            reason = f"{show(value)} is no object; give one with url and {caption_field}"
            dataset.problems.add(place, f"{field}: {reason}")
            continue
        caption = value.get(caption_field)
        if not isinstance(caption, str):
            reason = f"{show(caption)} is no text; give every shot a caption"
            dataset.problems.add(place, f"{field}.{caption_field}: {reason}")
            continue
        video = dataset.video(place, f"{field}.url", value.get("url"))
        if video is not None:
            shots.append(Shot(video=video, caption=caption, place=f"{place}: {field}"))
    # Without the missing shot, shots that do not follow each other would become neighbours.
    return [ShotGroup(shots=tuple(shots), place=place)] if len(shots) == len(values) else []
