"""The report of a comparison: JSON, a Markdown table, and one page with the methods' films side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from m2d.data.dataset_text import first_few
from m2d.evaluation.meanings import NEITHER, meaning
from m2d.evaluation.report import Report, as_json, basis, html_page, interval_text, scene_values
from m2d.evaluation.scores import SceneRow
from m2d.video.board.pictures import data_uri
from m2d.video.printable import counted, printable

_COLUMNS = ("visual", "semantic", "sequence", "cross_talk", "unprompted_difference", "smoothness")

Seeds = Mapping[str, Sequence[int]]
"""Per story, the seeds of its scenes, which all methods share."""


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


def common(values: Iterable[Any]) -> Any:
    """Return the value that all stories share, or the list of their different values."""
    found = list(dict.fromkeys(values))
    return found if found[1:] else found[0]


def comparison_json(methods: Mapping[str, MethodReport], *, seeds: Seeds) -> dict[str, Any]:
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


def comparison_markdown(methods: Mapping[str, MethodReport], *, seeds: Seeds) -> str:
    """Return a Markdown table with a row per method; `seeds` are those of `comparison_json`."""
    names, rows = _table(methods)
    lines = ["# Comparison", "", _summary(methods, len(seeds)), ""]
    lines += [
        *(f"- {line}" for line in _settings(methods, seeds)),
        "",
        "| method | " + " | ".join(names) + " |",
    ]
    lines += ["|---" * (len(names) + 1) + "|", *("| " + " | ".join(row) + " |" for row in rows)]
    notes = [f"- {note}" for note in _notes(methods)]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def comparison_html(methods: Mapping[str, MethodReport], *, seeds: Seeds) -> str:
    """Return the page: the table, and for every scene a strip of each method's frames."""
    names, rows = _table(methods)
    head = "".join(f"<th>{escape(name)}</th>" for name in ("method", *names))
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    notes = [f"<li>{escape(note)}</li>" for note in _notes(methods)]
    parts = ["<h1>Comparison</h1>", f"<p>{escape(_summary(methods, len(seeds)))}</p>"]
    parts.append(f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in _settings(methods, seeds))}</ul>")
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
    values = scene_values(row, ("visual", "semantic", "cross_talk"))
    uri = data_uri(row.picture, kind="image/webp")
    return (
        f"<tr><td>{escape(title)}</td><td><img alt='Frames by {escape(title)}' src='{uri}'></td>"
        f'<td class="text">{escape(values)}</td></tr>'
    )


def _table(methods: Mapping[str, MethodReport]) -> tuple[list[str], list[list[str]]]:
    """Return names of the columns, and the rows."""
    found = [name for name in _COLUMNS if any(name in each.report.figures for each in methods.values())]
    names = [_heading(name) for name in found]
    distance = next((each.report for each in methods.values() if each.report.distance), None)
    if distance is not None and distance.distance is not None:
        floor = distance.distance.frechet_floor.value
        names.append(
            f"Frechet distance, {distance.distance_name} features; smaller is better (halves of the"
            f" reference, {distance.distance.num_clips // 2} clips each: {floor:.4g})"
        )
    rows = []
    for each in methods.values():
        cells = [each.title, *(_cell(each.report, name) for name in found)]
        if distance is not None:
            cells.append("-" if each.report.distance is None else f"{each.report.distance.frechet:.4g}")
        rows.append(cells)
    return names, rows


def _heading(name: str) -> str:
    words, better = meaning(name)
    return words if better == NEITHER else f"{words}; {better} is better"


def _cell(report: Report, name: str) -> str:
    if name not in report.figures:
        return "-"
    figure = report.figures[name]
    notes = [note for note in (interval_text(figure), basis(report, name)) if note]
    return f"{figure.value:.4g}" + (f" ({'; '.join(notes)})" if notes else "")


def _settings(methods: Mapping[str, MethodReport], seeds: Seeds) -> list[str]:
    """Return what all methods share: model, steps, guidance, and seeds."""
    settings = next(iter(methods.values())).settings
    model, steps, guidance = (
        " or ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (settings[name] for name in ("model", "num_inference_steps", "guidance_scale"))
    )
    images = {each.settings["image_model"] for each in methods.values()} - {None}
    lines = [
        f"Model {model}" + "".join(f", keyframes animated by {each}" for each in sorted(images)),
        f"Steps {steps}, guidance {guidance}",
    ]
    if len({number for numbers in seeds.values() for number in numbers}) == 1:
        return [*lines, f"Seed {next(iter(seeds.values()))[0]} for all scenes"]
    shown = [f"{printable(name)} {' '.join(map(str, each))}" for name, each in seeds.items()]
    return [*lines, f"Seeds of the scenes: {first_few(shown)}"]


def _summary(methods: Mapping[str, MethodReport], num_stories: int) -> str:
    report = next(iter(methods.values())).report
    embedder = f"scores by {report.embedder}" if report.embedder else "frames alone, without an embedder"
    sizes = f"{counted(num_stories, 'story')}, {counted(len(methods), 'method')}"
    return f"{sizes}; {embedder}; 95 % intervals in brackets."
