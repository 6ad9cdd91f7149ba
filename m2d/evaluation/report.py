"""The report of an evaluation: JSON, Markdown, and one HTML page with the best and worst scenes.

Owns texts and layout; `scores` computes. All texts of films are escaped; the page needs no other file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from m2d.evaluation.frechet import SetDistance
from m2d.evaluation.intervals import Figure
from m2d.evaluation.scores import MEANINGS, SceneRow
from m2d.evaluation.stories import LeftOut
from m2d.video.board.pictures import data_uri

# Scenes at each end of the ranking that the page shows.
_MOST_SHOWN = 6
_COLUMNS = (
    "visual",
    "semantic",
    "cross_talk",
    "colour_jump",
    "lpips_across",
    "smoothness",
    "contrast_change",
)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
td, th { padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #8884; }
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
    distance: SetDistance | None
    distance_name: str
    left_out: Sequence[LeftOut]
    warnings: Sequence[str]
    notes: Sequence[str]
    version: str


def as_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; null where something was not measured."""
    return {
        "m2d_evaluation": 1,
        "m2d": report.version,
        "embedder": report.embedder or None,
        "networks": dict(report.networks),
        "num_stories": report.num_stories,
        "num_scenes": len(report.rows),
        "figures": {name: figure.as_json() for name, figure in report.figures.items()},
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
    lines = ["# Evaluation", "", _summary(report), "", "| figure | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {_cell(name)} | {value} | {interval} |" for name, value, interval in _figure_rows(report)]
    lines += ["", "| story | scene | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 2) + "|"]
    lines += [
        f"| {_cell(row.story)} | {row.number} | "
        + " | ".join(_text(row.values[name]) for name in _COLUMNS)
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
    ranked = sorted((row for row in report.rows if not math.isnan(row.rank)), key=lambda row: -row.rank)
    half = min(_MOST_SHOWN, -(-len(ranked) // 2))
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{value}</td><td>{interval}</td></tr>"
        for name, value, interval in _figure_rows(report)
    )
    parts = [
        "<h1>Evaluation</h1>",
        f"<p>{escape(_summary(report))}</p>",
        f"<table><tr><th>figure</th><th>value</th><th>95 % interval</th></tr>{rows}</table>",
        _html_list("Warnings", report.warnings),
        _html_list("Not measured", report.notes),
        _html_list("Left out", [f"{each.name}: {each.reason}" for each in report.left_out]),
        "<h2>Best scenes</h2>",
        *map(_figure, ranked[:half]),
        "<h2>Worst scenes</h2>",
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
    return (
        f"{count_stories(report.num_stories)}, {len(report.rows)} scenes; {embedder}; m2d {report.version}."
    )


def _figure_rows(report: Report) -> list[tuple[str, str, str]]:
    """Return name, value and interval of every figure and distance."""
    rows = [
        (figure_title(name, figure), _text(figure.value), interval_text(figure))
        for name, figure in report.figures.items()
    ]
    distance = report.distance
    if distance is not None:
        features = f"{report.distance_name} features, {distance.num_clips} clips each"
        for kind, value, floor in (
            ("Frechet", distance.frechet, distance.frechet_floor),
            ("Kernel", distance.kernel, distance.kernel_floor),
        ):
            rows.append((f"{kind} distance from the reference: {features}", _text(value), ""))
            halves = f"{kind} distance of two halves of the reference"
            rows.append((halves, _text(floor.value), interval_text(floor)))
    return rows


def count_stories(count: int) -> str:
    """Return `1 story`, or `3 stories`."""
    return f"{count} {'story' if count == 1 else 'stories'}"


def figure_title(name: str, figure: Figure) -> str:
    """Return what a figure is, and what chance alone has, if that is known."""
    return meaning(name) + ("" if figure.chance is None else f"; chance {_text(figure.chance)}")


def meaning(name: str) -> str:
    """Return what a figure is."""
    kind = name.removeprefix("shown.")
    return f"Shows the prompt's {kind.replace('_', ' ')}, share" if kind != name else MEANINGS[name]


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
    values = ", ".join(
        f"{name} {_text(row.values[name])}" for name in _COLUMNS if not math.isnan(row.values[name])
    )
    title = f"{row.story}, scene {row.number}: {values}"
    uri = data_uri(row.picture, kind="image/webp")
    return (
        f'<figure><img alt="Frames of the scene" src="{uri}"><figcaption><b>{escape(title)}</b>'
        f"<br>{escape(row.prompt)}</figcaption></figure>"
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
