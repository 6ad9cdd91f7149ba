"""The table of measured figures in README.md, written from `benchmarks/results/*.json`.

Run: `python -m benchmarks.readme` after a benchmark; `--check` only tells whether the table is up to date. No
figure in the README is typed by hand. Owns the wording and rounding; measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d.files import write_bytes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
START = "<!-- figures: written by `python -m benchmarks.readme`, do not edit -->"
END = "<!-- end of figures -->"

_PROMPTED = {
    "setting": "Setting as prompted",
    "time": "Time of day as prompted",
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "shape": "Body shape as prompted",
    "hat": "Hat as prompted",
    "action": "Action as prompted",
    "leakage": "Scenes that show another scene's action or cast",
}
_DRIFT = {
    "drift.tree_x": "The tree's place",
    "drift.sun_x": "The sun's place",
    "drift.horizon_y": "The horizon's height",
    "drift.actor_size": "The actors' size",
    "drift.all": "All four together",
}
_LAST_SCENE = {
    "on_stage": "Exactly the prompted actors on stage",
    "colour": "Body colour as prompted",
    "setting": "Setting as prompted",
}
_CODEC = {
    "codec.psnr_db": "Codec on unseen clips, all pixels",
    "codec.psnr_actors_db": "Codec on unseen clips, inside the actors' boxes",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured.
        value: The figure with its unit.
        limit: What it is held against.
        holds: Whether it is on the right side.
    """

    what: str
    value: str
    limit: str
    holds: bool


Reports = Mapping[str, Mapping[str, Any]]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results that are there, by file name without its ending."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def figures_block(reports: Reports) -> str:
    """Return the tables of all results that there are, as Markdown; never a row without a figure."""
    parts = []
    for name, (title, rows_of) in _SECTIONS.items():
        if name in reports:
            parts.append(_table(title, list(rows_of(reports[name]))))
            parts.append(_origin(name, reports[name]))
    return "\n\n".join(parts)


def with_figures(text: str, block: str) -> str:
    """Return a README with the figures between its two markers replaced.

    Raises:
        ValueError: The markers are not there exactly once, in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"expected one line {START!r} and, below it, one line {END!r}")
    before, rest = text.split(START)
    return f"{before}{START}\n{block}\n{END}{rest.split(END)[1]}"


def _faithful_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    yield _error_row("Largest error against the official Mask2DiT code, float32", report)


def _mask_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    count = report["num_layouts_per_mask"] * len(report["masks"])
    yield _error_row(f"Largest error against dense masks, {count:,} random layouts, float32", report)


def _startup_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    figures, limits, kept = report["figures"], report["limits"], report["kept"]
    rows: dict[str, tuple[str, Callable[[float], str]]] = {
        "help_s": ("`m2d --help`", lambda seconds: f"{seconds:.2f} s"),
        "generate_s": ("Three-scene film, from start to written", lambda seconds: f"{seconds:.0f} s"),
        "generate_peak_bytes": ("Memory at most, making it", lambda size: f"{size / 2**30:.1f} GiB"),
    }
    for key, (what, shown) in rows.items():
        limit = f"at most {shown(limits[key])}"
        yield Row(what=what, value=shown(figures[key]), limit=limit, holds=kept[key])
    same = report["identical_frames"]
    yield Row(
        what="The same story and seed twice",
        value="identical frames" if same else "different frames",
        limit="identical frames",
        holds=same,
    )


def _quality_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    figures = report["figures"].get("mask2dit") or report["figures"].get("single") or {}
    for name, what in _PROMPTED.items():
        if name in checks:
            yield _share_row(what, checks[name], figures.get(name, {}))
    for name, what in _DRIFT.items():
        if name in checks:
            drift = report["drift_relative_to_isolated"].get(name.removeprefix("drift."), {})
            said = f"{what}: difference between scenes, where `isolated` is 100 %"
            yield _share_row(said, checks[name], drift)
    read = [check for name, check in checks.items() if name.startswith("reader.")]
    if read:
        worst = min(read, key=lambda check: check["value"])
        property_name = worst["name"].removeprefix("reader.").replace("_", " ").replace(".", "'s ")
        yield _share_row(
            f"Reader on unseen clips, worst of {len(read)} properties ({property_name})", worst, {}
        )
    for name, what in _CODEC.items():
        if name in checks:
            check = checks[name]
            value, limit = f"{check['value']:.1f} dB", f"at least {check['target']:g} dB"
            yield Row(what=what, value=value, limit=limit, holds=check["holds"])


def _growth_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    checks = {check["name"]: check for check in report["checks"]}
    last = report["chain"]["last_scene"]
    for name, what in _LAST_SCENE.items():
        yield _share_row(f"{what}, eight added scenes later", checks[f"last scene.{name}"], last[name])
    said = "Unprompted properties: scene 11 from scene 1, where other stories are 100 %"
    yield _share_row(said, checks["drift over the chain"], {})
    background = checks["background"]
    yield Row(
        what="Background colours: scene 11 from scene 1",
        value=f"{background['value']:.1f} levels of 255",
        limit=f"at most {background['target']:g}",
        holds=background["holds"],
    )
    said = "Re-rolled scene's unprompted properties, where joint generation is 100 %"
    yield _share_row(said, checks["re-roll drift"], {})
    kept = checks["re-roll keeps others"]
    yield Row(
        what="Other scenes' frames after a re-roll",
        value="identical" if kept["holds"] else f"identical in {kept['value']:.0%} of films",
        limit="identical",
        holds=kept["holds"],
    )
    yield _share_row("Time of the 12th added scene, where the 1st is 100 %", checks["time, 12th to 1st"], {})


def _kill_rows(report: Mapping[str, Any]) -> Iterator[Row]:
    for task, figures in report["tasks"].items():
        yield Row(
            what=f"`kill -9` at random moments of `m2d {task}`, then going on: films with a difference",
            value=f"{figures['wrong']} of {figures['kills']}",
            limit="none",
            holds=figures["wrong"] == 0,
        )


def _error_row(what: str, report: Mapping[str, Any]) -> Row:
    return Row(
        what=what,
        value=f"{report['max_abs_error']:.1e}",
        limit=f"at most {report['tolerance']:.0e}",
        holds=report["within_tolerance"],
    )


def _share_row(what: str, check: Mapping[str, Any], figure: Mapping[str, Any]) -> Row:
    value = "nothing to measure" if check["value"] is None else f"{check['value']:.1%}"
    if None not in (check["value"], figure.get("low"), figure.get("high")):
        value += f" ({figure['low']:.1%} to {figure['high']:.1%})"
    limit = f"{check['bound']} {check['target']:.0%}"
    return Row(what=what, value=value, limit=limit, holds=check["holds"])


_SECTIONS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Iterator[Row]]]] = {
    "oracle": ("Is it the same model?", _faithful_rows),
    "masks": ("Are the masks right?", _mask_rows),
    "startup": ("What a newcomer waits for", _startup_rows),
    "quality": ("The embedded model on stories it never saw", _quality_rows),
    "growth": ("Films that grow", _growth_rows),
    "kills": ("Nothing lost on the way", _kill_rows),
    "quality-single": ("Scenes made one by one, by the model before it saw stories", _quality_rows),
}


def _table(title: str, rows: list[Row]) -> str:
    lines = [f"| {title} | measured | required | |", "|---|---|---|---|"]
    for row in rows:
        verdict = "kept" if row.holds else "**missed**"
        lines.append(f"| {row.what} | {row.value} | {row.limit} | {verdict} |")
    return "\n".join(lines)


def _origin(name: str, report: Mapping[str, Any]) -> str:
    """Say where the figures above come from, in a line."""
    facts = [f"[`{name}.json`](benchmarks/results/{name}.json)"]
    num_stories = report.get("num_stories") or report.get("chain", {}).get("num_stories")
    if num_stories:
        sampling = report["sampling"]
        facts.append(f"{num_stories} stories, {sampling['num_inference_steps']} steps")
        facts.append("95 % intervals over stories in brackets")
    if "cores" in report:
        facts.append(f"{report['story']}, {report['cores']} CPU cores")
    if "machine" in report:
        facts.append(report["machine"])
    facts.append(f"torch {report.get('torch') or report['versions']['torch']}")
    return f"<sub>{', '.join(facts)}</sub>"


def main() -> int:
    """Rewrite the README's figures, or tell whether they are up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail when figures are stale")
    check: bool = parser.parse_args().check
    text = README.read_text("utf-8")
    updated = with_figures(text, figures_block(read_reports(RESULTS)))
    if check:
        sys.stdout.write("up to date\n" if text == updated else "stale: run python -m benchmarks.readme\n")
        return 0 if text == updated else 1
    write_bytes(README, updated.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
