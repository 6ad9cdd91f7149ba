"""The report of a comparison: JSON, a Markdown table, and one page with the methods' films side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from m2d.evaluation.intervals import Figure
from m2d.evaluation.report import Report, as_json, count_stories, html_page, interval_text, meaning
from m2d.evaluation.scores import SceneRow
from m2d.video.board.pictures import data_uri

_COLUMNS = ("visual", "semantic", "sequence", "cross_talk", "unprompted_difference", "smoothness")


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodReport:
    """What was found of one method.

    Attributes:
        title: For the table.
        settings: Mask, attention, steps and what else was recorded, for the JSON file.
        notes: What limits the comparison.
    """

    title: str
    settings: Mapping[str, Any]
    report: Report
    notes: Sequence[str] = ()


def comparison_json(
    methods: Mapping[str, MethodReport], *, seeds: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Return the comparison as JSON values: per method its settings and its evaluation.

    Args:
        seeds: Per story, the seeds of its scenes, which all methods share.
    """
    return {
        "m2d_comparison": 1,
        "stories": {name: list(numbers) for name, numbers in seeds.items()},
        "methods": {
            name: {
                "title": each.title,
                "settings": dict(each.settings),
                "notes": list(each.notes),
                "evaluation": as_json(each.report),
            }
            for name, each in methods.items()
        },
    }


def comparison_markdown(methods: Mapping[str, MethodReport], *, num_stories: int) -> str:
    """Return a Markdown table with a row per method."""
    names, rows = _table(methods)
    lines = ["# Comparison", "", _summary(methods, num_stories), "", "| method | " + " | ".join(names) + " |"]
    lines += ["|---" * (len(names) + 1) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    notes = [f"- {note}" for note in _notes(methods)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def comparison_html(methods: Mapping[str, MethodReport], *, num_stories: int) -> str:
    """Return the page: the table, and for every scene a strip of each method's frames."""
    names, rows = _table(methods)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("method", *names))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    notes = [f"<li>{escape(note)}</li>" for note in _notes(methods)]
    parts = ["<h1>Comparison</h1>", f"<p>{escape(_summary(methods, num_stories))}</p>"]
    parts += [f"<table><tr>{head}</tr>{body}</table>", f"<ul>{''.join(notes)}</ul>"]
    strips = {
        name: {(row.story, row.number): row for row in each.report.rows} for name, each in methods.items()
    }
    story = ""
    for key, first in next(iter(strips.values())).items():
        if key[0] != story:
            story = key[0]
            parts.append(f"<h2>{escape(story)}</h2>")
        parts.append(f"<p><b>{key[1]}.</b> {escape(first.prompt)}</p><table>")
        parts += [
            _strip(methods[name].title, rows_of[key]) for name, rows_of in strips.items() if key in rows_of
        ]
        parts.append("</table>")
    return html_page("Comparison", parts)


def _notes(methods: Mapping[str, MethodReport]) -> list[str]:
    """Return what limits the comparison, by method."""
    return [f"{each.title}: {n}" for each in methods.values() for n in (*each.notes, *each.report.warnings)]


def _strip(title: str, row: SceneRow) -> str:
    values = ", ".join(
        f"{name} {row.values[name]:.3g}"
        for name in ("visual", "semantic", "cross_talk")
        if not math.isnan(row.values[name])
    )
    uri = data_uri(row.picture, kind="image/webp")
    return (
        f"<tr><td>{escape(title)}</td><td><img alt='Frames by {escape(title)}' src='{uri}'></td>"
        f'<td class="text">{escape(values)}</td></tr>'
    )


def _table(methods: Mapping[str, MethodReport]) -> tuple[list[str], list[list[str]]]:
    """Return names of the columns, and the rows."""
    found = [name for name in _COLUMNS if any(name in each.report.figures for each in methods.values())]
    names = [meaning(name) for name in found]
    distance = next((each.report for each in methods.values() if each.report.distance), None)
    if distance is not None and distance.distance is not None:
        floor = distance.distance.frechet_floor.value
        names.append(
            f"Frechet distance, {distance.distance_name} features (halves of the reference: {floor:.4g})"
        )
    rows = []
    for each in methods.values():
        cells = [each.title, *(_cell(each.report.figures.get(name)) for name in found)]
        if distance is not None:
            cells.append("-" if each.report.distance is None else f"{each.report.distance.frechet:.4g}")
        rows.append(cells)
    return names, rows


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "-"
    interval = interval_text(figure)
    return f"{figure.value:.4g}" + (f" ({interval})" if interval else "")


def _summary(methods: Mapping[str, MethodReport], num_stories: int) -> str:
    report = next(iter(methods.values())).report
    embedder = f"scores by {report.embedder}" if report.embedder else "frames alone, without an embedder"
    return f"{count_stories(num_stories)}, {len(methods)} methods; {embedder}; 95 % intervals in brackets."
