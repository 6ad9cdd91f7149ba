"""Stage `report`: one HTML page with counts, reasons, similarities, contact sheets and playable groups.

Owns what the page shows; `page/` holds its template, style and script. The page needs no other file.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2d.curation.filter import shot_id, shot_name
from m2d.curation.pack import Story
from m2d.curation.pipeline import Pipeline, Related, outputs_of
from m2d.curation.relate import Group
from m2d.curation.shots import Shot
from m2d.curation.stage_file import apart
from m2d.curation.stills import Stills, stills_path
from m2d.errors import DatasetError
from m2d.files import write_bytes
from m2d.limits import TALLEST_SMALL_PICTURE
from m2d.video.board.page import render_template
from m2d.video.board.pictures import data_uri
from m2d.video.printable import printable

PAGE = "report.html"
# Groups on the page, pictures of a shot, their width, and groups shown for each bar of the histogram.
MOST_GROUPS = 300
_MOST_PICTURES, _PICTURE_WIDTH, _QUALITY = 12, 160, 72
_EXAMPLES = 5
_BAR = 0.05
_LONGEST_CAPTION = 1200
_MOST_REJECTS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Strip:
    """Pictures of one shot side by side, played like a flip book; width and height are those of one."""

    uri: str
    width: int
    height: int
    count: int
    duration_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ShotView:
    """One shot on the page; `relevance` is its similarity to the shot before, empty for the first."""

    id: str
    name: str
    caption: str
    relevance: str


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupView:
    """One group on the page."""

    number: int
    shots: tuple[ShotView, ...]
    caption_by: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of the histogram: what was judged, by similarity; `examples` are numbers of groups."""

    start: float
    count: int
    share: float
    is_kept: bool
    examples: tuple[int, ...]


def write_report(pipeline: Pipeline) -> Path:
    """Write the page of a data set and return its path.

    Raises:
        DatasetError: Stage `relate` is not finished, or the stills are gone.
    """
    related, shots = pipeline.related(), pipeline.kept_shots()
    shown = related.groups[:MOST_GROUPS]
    stories = _stories(pipeline, shown)
    html = render_template(
        "m2d.curation",
        "page",
        counts=pipeline.counts(),
        rejects=_rejects(pipeline),
        bars=_bars(related, shown, shots),
        embedder=related.embedder.name,
        is_joint=related.embedder.is_joint,
        sim_range=related.sim_range,
        num_groups=len(related.groups),
        groups=[_view(number, *each) for number, each in enumerate(zip(shown, stories, strict=True))],
        data={"strips": _strips(pipeline.data.folder, shown)},
        num_shots=len(shots),
        seconds=sum(shot.end_s - shot.start_s for group in related.groups for shot in group.shots),
    )
    page = pipeline.data.folder / PAGE
    write_bytes(page, html.encode("ascii"))
    return page


def group_at(pipeline: Pipeline, number: int) -> GroupView:
    """Return one group of a data set.

    Raises:
        DatasetError: There is no such group, or stage `relate` is not finished.
    """
    groups = pipeline.related().groups
    if not 0 <= number < len(groups):
        raise DatasetError(f"group {number}: there are {len(groups)}, counted from 0")
    (story,) = _stories(pipeline, groups[number : number + 1])
    return _view(number, groups[number], story)


def _stories(pipeline: Pipeline, groups: Sequence[Group]) -> list[Story | None]:
    """Return the story of each group; None for all before stage `pack`, and for groups of a later build."""
    lines = pipeline.pack.read() if pipeline.pack.path.is_file() else []
    stories = {story.group.name: story for story in outputs_of(lines)}
    found = [stories.get(group.name) for group in groups]
    for group, story in zip(groups, found, strict=True):
        if story is not None and len(story.captions) != len(group.shots):
            raise apart(pipeline.data.folder, "relate", "pack")
    return found


def _view(number: int, group: Group, story: Story | None) -> GroupView:
    captions: Sequence[str] = story.captions if story else [""] * len(group.shots)
    relevance = ("", *(f"{each:.3f}" for each in group.similarities))
    return GroupView(
        number=number,
        caption_by=printable(story.caption_by) if story else "",
        shots=tuple(
            ShotView(
                id=shot_id(shot),
                name=printable(shot_name(shot)),
                caption=printable(caption, limit=_LONGEST_CAPTION),
                relevance=similarity,
            )
            for shot, caption, similarity in zip(group.shots, captions, relevance, strict=True)
        ),
    )


def _rejects(pipeline: Pipeline) -> list[tuple[str, str, str]]:
    """Return stage, input and reason of what was rejected, the first of each stage."""
    found: list[tuple[str, str, str]] = []
    files = (
        pipeline.scan,
        pipeline.clips,
        pipeline.shots,
        pipeline.filter,
        pipeline.relate,
        pipeline.caption,
    )
    for file in files:
        lines = file.read() if file.path.is_file() else []
        rejected = [line for line in lines if not line.is_kept][:_MOST_REJECTS]
        found += [(file.stage, printable(line.place), printable(line.reason, limit=400)) for line in rejected]
    return found


def _bars(related: Related, shown: Sequence[Group], shots: Sequence[Shot]) -> list[Bar]:
    sims = np.array([similarity for _, _, similarity in related.judged])
    if not len(sims):
        return []
    edges = np.arange(np.floor(sims.min() / _BAR), np.floor(sims.max() / _BAR) + 1) * _BAR
    places = np.searchsorted(edges, sims + 1e-9, side="right") - 1
    counts = np.bincount(places, minlength=len(edges))
    least, largest = related.sim_range
    inside = _judged_inside(related, shown, shots)
    bars = []
    for edge, count in zip(edges, counts, strict=True):
        examples = [
            number
            for number, found in enumerate(inside)
            if any(edge <= similarity < edge + _BAR for similarity in found)
        ]
        bars.append(
            Bar(
                start=round(float(edge), 2),
                count=int(count),
                share=float(count / counts.max()),
                is_kept=bool(edge + _BAR > least and edge <= largest),
                examples=tuple(examples[:_EXAMPLES]),
            )
        )
    return bars


def _judged_inside(related: Related, shown: Sequence[Group], shots: Sequence[Shot]) -> list[list[float]]:
    """Return the similarities of what was judged inside each group."""
    group_of = {shot: number for number, group in enumerate(shown) for shot in group.shots}
    inside: list[list[float]] = [[] for _ in shown]
    for first, last, similarity in related.judged:
        number = group_of.get(shots[first])
        if number is not None and number == group_of.get(shots[last]):
            inside[number].append(similarity)
    return inside


def _strips(data_set: Path, groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Return the pictures of all shots on the page by shot."""
    opened: dict[str, Stills] = {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for group in groups:
            for shot in group.shots:
                if shot.stills not in opened:
                    opened[shot.stills] = Stills(stills_path(data_set, shot.stills))
                strip = paint_strip(opened[shot.stills], shot)
                found[shot_id(shot)] = {
                    name: getattr(strip, name) for name in ("uri", "width", "height", "count", "duration_s")
                }
    finally:
        for stills in opened.values():
            stills.close()
    return found


def paint_strip(stills: Stills, shot: Shot) -> Strip:
    """Paint pictures of a shot side by side."""
    times_s = stills.times_s(shot.start_s, shot.end_s)
    count = min(len(times_s), _MOST_PICTURES)
    places = np.linspace(0, len(times_s) - 1, count).round().astype(int)
    pictures = [Image.fromarray(stills.picture(times_s[place])) for place in places]
    shape = min(pictures[0].height / pictures[0].width, TALLEST_SMALL_PICTURE)
    height = max(round(_PICTURE_WIDTH * shape), 1)
    strip = Image.new("RGB", (_PICTURE_WIDTH * count, height))
    for number, picture in enumerate(pictures):
        small = picture.resize((_PICTURE_WIDTH, height), Image.Resampling.BOX)
        strip.paste(small, (number * _PICTURE_WIDTH, 0))
    file = io.BytesIO()
    strip.save(file, "WEBP", quality=_QUALITY, method=2)
    return Strip(
        uri=data_uri(file.getvalue(), kind="image/webp"),
        width=_PICTURE_WIDTH,
        height=height,
        count=count,
        duration_s=round(shot.end_s - shot.start_s, 3),
    )
