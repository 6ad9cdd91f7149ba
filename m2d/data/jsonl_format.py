"""Our own format, JSON Lines: a story per line; its shots may be parts of longer videos.

`docs/data.md` describes the format.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from m2d.data.csv_format import WrittenClip
from m2d.data.dataset_text import DatasetText, Problems, Shot, ShotGroup
from m2d.data.json_text import read_json_text
from m2d.recipe.places import show

VERSION = 1
_STORY_KEYS = frozenset({"m2d", "story", "scenes"})
# For people who read the file; m2d measures these itself.
_IGNORED_KEYS = frozenset({"fps", "width", "height", "num_frames", "relevance", "caption_by"})
_SCENE_KEYS = frozenset({"video", "start_s", "end_s", "sha256"}) | _IGNORED_KEYS
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_jsonl(dataset: DatasetText) -> list[ShotGroup]:
    """Read stories, one per line."""
    groups = []
    for number, line in enumerate(dataset.text.split("\n"), start=1):
        place = f"{dataset.name}:{number}"
        if not line.strip():
            continue
        try:
            story = read_json_text(line)
        except json.JSONDecodeError as error:
            reason = f"not valid JSON: {error.msg.lower()} at column {error.colno}"
            dataset.problems.add(place, reason)
            continue
        except ValueError as error:
            dataset.problems.add(place, str(error))
            continue
        groups += _group(story, place=place, dataset=dataset)
    return groups


def write_jsonl(groups: Sequence[Sequence[WrittenClip]]) -> str:
    """Return a line for each of `groups`."""
    lines = []
    for number, clips in enumerate(groups):
        scenes = [asdict(clip) for clip in clips]
        story = {"m2d": VERSION, "story": f"story-{number:06d}", "scenes": scenes}
        lines.append(f"{json.dumps(story, ensure_ascii=False)}\n")
    return "".join(lines)


def _group(story: Any, *, place: str, dataset: DatasetText) -> list[ShotGroup]:
    problems = dataset.problems
    if not isinstance(story, dict) or not isinstance(story.get("scenes"), list) or not story["scenes"]:
        problems.add(place, "no story; a line is an object with a list of scenes")
        return []
    if story.get("m2d") != VERSION:
        problems.add(place, f"m2d: {show(story.get('m2d'))}; this version reads {VERSION}")
        return []
    _refuse_unknown(story, _STORY_KEYS, place, problems)
    shots = []
    for number, scene in enumerate(story["scenes"]):
        shot = _shot(scene, f"scenes[{number}]", place=place, dataset=dataset)
        shots += [] if shot is None else [shot]
    complete = len(shots) == len(story["scenes"])
    return [ShotGroup(shots=tuple(shots), place=place)] if complete else []


def _shot(scene: Any, field: str, *, place: str, dataset: DatasetText) -> Shot | None:
    caption_field, problems = dataset.caption_field, dataset.problems
    if not isinstance(scene, dict):
        problems.add(place, f"{field}: {show(scene)} is no object; give one with video and {caption_field}")
        return None
    captions = {key for key in scene if key.startswith("caption")} | {caption_field}
    _refuse_unknown(scene, _SCENE_KEYS | captions, f"{place}: {field}", problems)
    if not isinstance(scene.get(caption_field), str):
        problems.add(place, f"{field}.{caption_field}: {show(scene.get(caption_field))} is no text")
        return None
    start_s, end_s = scene.get("start_s", 0.0), scene.get("end_s")
    fault = _fault_of_span(start_s, end_s)
    if fault:
        problems.add(place, f"{field}{fault}")
        return None
    sha256 = scene.get("sha256")
    if sha256 is not None and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        problems.add(place, f"{field}.sha256: {show(sha256)}; 64 hexadecimal digits are needed")
        return None
    video = dataset.video(place, f"{field}.video", scene.get("video"))
    if video is None:
        return None
    return Shot(
        video=video,
        caption=scene[caption_field],
        place=f"{place}: {field}",
        start_s=float(start_s),
        end_s=None if end_s is None else float(end_s),
        sha256=sha256,
    )


def _fault_of_span(start_s: Any, end_s: Any) -> str:
    """Say, behind the name of the scene, what is wrong with its times; empty if nothing is."""
    times = {"start_s": start_s} if end_s is None else {"start_s": start_s, "end_s": end_s}
    for name, time in times.items():
        if isinstance(time, bool) or not isinstance(time, int | float):
            return f".{name}: {show(time)} is no number of seconds"
        if not math.isfinite(time):
            return f".{name}: must be finite, got {time}; give a number of seconds"
    if start_s < 0 or (end_s is not None and start_s >= end_s):
        shown = ", ".join(f"{name} {show(time)}" for name, time in times.items())
        return f": {shown}; use 0 <= start_s < end_s"
    return ""


def _refuse_unknown(item: dict[str, Any], known: frozenset[str], place: str, problems: Problems) -> None:
    unknown = sorted(item.keys() - known)
    if unknown:
        problems.add(place, f"unknown {', '.join(unknown)}; known are {', '.join(sorted(known))}")
