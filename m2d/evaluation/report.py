"""The report of an evaluation: JSON, Markdown, and one HTML page with the best and worst scenes.

Owns texts and layout; `scores` computes. All texts of films are escaped; the page needs no other file.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from m2d.errors import OutputError, Remedy
from m2d.evaluation.frechet import SetDistance
from m2d.evaluation.intervals import Figure
from m2d.evaluation.meanings import NEITHER, SCENE_VALUES, SMALLER, meaning
from m2d.evaluation.scores import SceneRow
from m2d.evaluation.stories import LeftOut
from m2d.video.board.pictures import data_uri
from m2d.video.printable import counted

# Scenes at each end of the ranking that the page shows.
_MOST_SHOWN = 6
# What scenes are ranked by: the first of those that most scenes have.
_RANKED_BY = (("visual", "semantic"), ("visual",), ("semantic",))
_HEADINGS = ("figure", "value", "95 % interval", "better", "measured on")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: break-word; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #8884; }
td { white-space: nowrap; }
td:first-child, td.text { min-width: 8rem; white-space: normal; }
td:first-child, th:first-child, td.text { text-align: left; }
figure { margin: 0 0 1.5rem; }
figure img { display: block; max-width: 100%; }
figcaption { opacity: 0.85; }
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that an evaluation found.

    Attributes:
        embedder: Name of the scores; empty without one.
        networks: SHA-256 of the weights by protocol.
        figures: By name, in the order to show.
        num_measured: Number of stories behind each figure.
        distance: Distance from the reference; None without one.
        distance_name: Name of the features behind it.
        warnings: What makes a figure misleading.
        notes: What was not measured, and why.
        version: Of m2d.
    """

    embedder: str
    networks: Mapping[str, str]
    num_stories: int
    rows: Sequence[SceneRow]
    figures: Mapping[str, Figure]
    num_measured: Mapping[str, int]
    distance: SetDistance | None
    distance_name: str
    left_out: Sequence[LeftOut]
    warnings: Sequence[str]
    notes: Sequence[str]
    version: str


def check_no_report(out: Path, names: Sequence[str], *, force: bool) -> None:
    """Check that a report of these files replaces nothing in its folder.

    Raises:
        OutputError: One of them is there, and `force` is not set.
    """
    there = next((name for name in names if os.path.lexists(out / name)), None)
    if there is not None and not force:
        raise OutputError(f"{out}: holds a report or another {there}", remedy=Remedy.OVERWRITE)


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; null where something was not measured."""
    return {
        "m2d_evaluation": 1,
        "m2d": report.version,
        "embedder": report.embedder or None,
        "networks": dict(report.networks),
        "num_stories": report.num_stories,
        "num_scenes": len(report.rows),
        "figures": {
            name: figure.as_json() | {"num_stories": report.num_measured[name]}
            for name, figure in report.figures.items()
        },
        "set_distance": None if report.distance is None else _distance_json(report),
        "left_out": [asdict(each) for each in report.left_out],
        "warnings": list(report.warnings),
        "notes": list(report.notes),
        "scenes": [
            {
                "story": row.story,
                "scene": row.number,
                "prompt": row.prompt,
                **{name: _number(value) for name, value in row.values.items()},
            }
            for row in report.rows
        ],
    }


def as_markdown(report: Report) -> str:
    """Return the report as Markdown: figures, distances, and one row per scene."""
    lines = ["# Evaluation", "", _summary(report), "", f"| {' | '.join(_HEADINGS)} |"]
    lines += ["|---" * len(_HEADINGS) + "|", *(f"| {' | '.join(map(_cell, row))} |" for row in _rows(report))]
    columns = [f"{words}, {unit}" if unit else words for words, unit in SCENE_VALUES.values()]
    lines += ["", f"| story | scene | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    lines += [
        f"| {_cell(row.story)} | {row.number} | "
        + " | ".join(_text(row.values[name]) for name in SCENE_VALUES)
        + " |"
        for row in report.rows
    ]
    lines += _list("Warnings", [_cell(text) for text in report.warnings])
    lines += _list("Not measured", report.notes)
    lines += _list("Left out", [f"{_cell(each.name)}: {_cell(each.reason)}" for each in report.left_out])
    lines += _list("Networks", [f"{name}: sha256 {digest}" for name, digest in report.networks.items()])
    return "\n".join(lines) + "\n"


def as_html(report: Report) -> str:
    """Return the report as an HTML page, ASCII only."""
    ranked, rule = _ranked(report.rows)
    half = min(_MOST_SHOWN, -(-len(ranked) // 2))
    head = "".join(f"<th>{escape(text)}</th>" for text in _HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in _rows(report)
    )
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{escape(_summary(report))}</p>",
        f"<table><tr>{head}</tr>{rows}</table>",
        _html_list("Warnings", report.warnings),
        _html_list("Not measured", report.notes),
        _html_list("Left out", [f"{each.name}: {each.reason}" for each in report.left_out]),
        f"<h2>Best scenes, by {rule}</h2>",
        *map(_figure, ranked[:half]),
        f"<h2>Worst scenes, by {rule}</h2>",
        *map(_figure, ranked[: half - 1 : -1][:_MOST_SHOWN]),
        _html_list("Networks", [f"{name}: sha256 {digest}" for name, digest in report.networks.items()]),
    ]
    return html_page("Evaluation", parts)


def html_page(title: str, parts: Sequence[str]) -> str:
    """Return a page of escaped parts, ASCII only; it may show pictures in data URIs and load nothing."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="ascii"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head>'
        f"<body>{''.join(parts)}</body></html>\n"
    )
    return html.encode("ascii", "xmlcharrefreplace").decode("ascii")


def interval_text(figure: Figure) -> str:
    """Return `57.1 to 78.9`; empty where a figure has no interval."""
    return "" if math.isnan(figure.low) else f"{_text(figure.low)} to {_text(figure.high)}"


def _summary(report: Report) -> str:
    embedder = f"scores by {report.embedder}" if report.embedder else "frames alone, without an embedder"
    sizes = f"{counted(report.num_stories, 'story')}, {counted(len(report.rows), 'scene')}"
    return f"{sizes}; {embedder}; m2d {report.version}."


def _rows(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Return the cells below `_HEADINGS` for every figure and distance."""
    rows = [
        (
            figure_title(name, figure),
            _text(figure.value),
            interval_text(figure),
            meaning(name).better,
            basis(report, name) or "all stories",
        )
        for name, figure in report.figures.items()
    ]
    distance = report.distance
    if distance is not None:
        clips = f"{counted(distance.num_clips, 'clip')} each"
        halves = f"{counted(distance.num_clips // 2, 'clip')} each, {{}} splits"
        for kind, value, floor, hint in (
            ("Frechet", distance.frechet, distance.frechet_floor, "; fewer clips, larger distance"),
            ("Kernel", distance.kernel, distance.kernel_floor, ""),
        ):
            title = f"{kind} distance from the reference, {report.distance_name} features"
            rows.append((title, _text(value), "", SMALLER, clips))
            title = f"{kind} distance between random halves of the reference, mean (95 % of splits){hint}"
            found = f"{_text(floor.value)} ({interval_text(floor)})"
            rows.append((title, found, "", "", halves.format(floor.count)))
    return rows


def basis(report: Report, name: str) -> str:
    """Return what a figure was measured on: `1 of 3 stories`; empty for a mean over all stories."""
    measured, pooled = report.num_measured[name], ""
    if name == "unprompted_difference":
        pooled = "pair of scenes"
    elif name.startswith("shown."):
        pooled = "prompted property"
    if pooled:
        count = report.figures[name].count
        words = pooled.replace("pair", "pairs").replace("property", "properties") if count != 1 else pooled
        return f"{count} {words} in {counted(measured, 'story')}"
    return "" if measured == report.num_stories else f"{measured} of {counted(report.num_stories, 'story')}"


def figure_title(name: str, figure: Figure) -> str:
    """Return what a figure is, and what chance alone has, if that is known."""
    return meaning(name).words + ("" if figure.chance is None else f"; chance {_text(figure.chance)}")


def direction(name: str) -> str:
    """Return which values of a figure are better; empty if neither is."""
    better = meaning(name).better
    return "" if better == NEITHER else f"{better} is better"


def scene_values(row: SceneRow, names: Sequence[str]) -> str:
    """Return values of a scene with words and units, without those that were not measured."""
    parts = [
        f"{SCENE_VALUES[name][0]} {_text(row.values[name])} {SCENE_VALUES[name][1]}".rstrip()
        for name in names
        if not math.isnan(row.values[name])
    ]
    return ", ".join(parts)


def _ranked(rows: Sequence[SceneRow]) -> tuple[list[SceneRow], str]:
    """Return the scenes from best to worst, and by what; those without it are left out."""

    def having(names: Sequence[str]) -> list[SceneRow]:
        return [row for row in rows if not any(math.isnan(row.values[name]) for name in names)]

    names = max(_RANKED_BY, key=lambda each: len(having(each)))
    if not having(names):
        names = ("smoothness",)
    found = sorted(having(names), key=lambda row: -sum(row.values[name] for name in names))
    rule = " and ".join(SCENE_VALUES[name][0] for name in names)
    missing = len(rows) - len(found)
    without = f" (without {counted(missing, 'scene')} that {'has' if missing == 1 else 'have'} none)"
    return found, ("the mean of " if names[1:] else "") + rule + (without if missing else "")


def _distance_json(report: Report) -> dict[str, Any]:
    assert report.distance is not None
    distance = report.distance
    return {
        "features": report.distance_name,
        "num_clips": distance.num_clips,
        "frechet": _number(distance.frechet),
        "frechet_of_halves": distance.frechet_floor.as_json(),
        "kernel": _number(distance.kernel),
        "kernel_of_halves": distance.kernel_floor.as_json(),
    }


def _figure(row: SceneRow) -> str:
    title = f"{row.story}, scene {row.number}:"
    values = scene_values(row, [*SCENE_VALUES])
    uri = data_uri(row.picture, kind="image/webp")
    return (
        f'<figure><img alt="Frames of the scene" src="{uri}"><figcaption><b>{escape(title)}</b> '
        f"{escape(values)}<br>{escape(row.prompt)}</figcaption></figure>"
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def _cell(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _list(title: str, texts: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {text}" for text in texts)] if texts else []


def _html_list(title: str, texts: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f"<h2>{escape(title)}</h2><ul>{items}</ul>" if texts else ""
