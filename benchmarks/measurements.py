"""The tables of figures in docs/measurements.md and README.md, written from `benchmarks/results/*.json`.

Run: `python -m benchmarks.measurements` after a benchmark; `--check` only reports stale tables.
No figure in these tables is typed by hand. Owns the form of the tables and which figures README shows;
`measurement_rows` owns the rows. Measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurement_rows import PENDING, SECTIONS, quality_rows
from benchmarks.row import Row
from m2d.files import write_bytes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "measurements.md"
RESULTS = Path(__file__).parent / "results"
START = "<!-- figures: written by `python -m benchmarks.measurements`, do not edit -->"
END = "<!-- end of figures -->"

# One model for each mask: the same sizes, trained further from the shipped weights.
MASKS = {"mask2dit": "quality", "causal": "quality-causal", "anchor": "quality-anchor"}

Reports = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """A figure that README shows.

    Attributes:
        reader: Whom it matters to most; the first of a group names it, the others are empty.
        report: Name of the results file.
        key: Which row of the report's section.
        what: What was measured, in words that need no heading.
    """

    reader: str = ""
    report: str
    key: str
    what: str


HEADLINES = (
    Headline(
        reader="film makers",
        report="startup",
        key="generate_s",
        what="Three-scene puppet film, from the command to the finished file, 2 CPU cores",
    ),
    Headline(
        report="quality-large", key="action", what="Scenes that show the prompted action, `puppet-large`"
    ),
    Headline(
        report="kills",
        key="generate",
        what="Films that differ after `kill -9` at a random moment and `--resume`",
    ),
    Headline(
        reader="researchers",
        report="oracle",
        key="max_abs_error",
        what="Largest error against the official Mask2DiT code, small random weights, float32",
    ),
    Headline(
        report="masks",
        key="max_abs_error",
        what="Largest error of all mask rules against dense masks, float32",
    ),
    Headline(
        report="quality-large",
        key="leakage",
        what="Scenes that show what another scene's prompt says, `puppet-large`",
    ),
    Headline(
        report="quality-large",
        key="drift.all",
        what="Differences that no prompt asks for, stories with one setting; separate scenes = 100 %",
    ),
    Headline(
        reader="deployment",
        report="same_film",
        key="onnx",
        what="`onnx` against `eager`: worst step (relative), largest pixel difference",
    ),
    Headline(
        report="cold_start",
        key="best",
        what="Whole command with the faster exported graph, `aot` or `onnx`; `eager` in float32 = 100 %",
    ),
    Headline(
        report="speed-gpu",
        key="block_time",
        what="Time of a CogVideoX-5B block on an H200, random weights, official scheme = 100 %",
    ),
)


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results that exist, by file name without the suffix."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def figures_block(reports: Reports) -> str:
    """Return a Markdown section with a table for every results file, measured or still required."""
    parts = []
    for name, (title, rows_of) in SECTIONS.items():
        if name in reports or name in PENDING:
            rows = rows_of(reports.get(name) or PENDING[name])
            parts.append(f"## {title}\n\n" + _table(["Figure"], [([row.what], row) for row in rows]))
        if name in reports:
            parts.append(_origin(name, reports[name]))
    if all(name in reports for name in MASKS.values()):
        parts.append(f"## Other masks\n\n{_masks_table(reports)}")
    return "\n\n".join(parts)


def headlines_block(reports: Reports) -> str:
    """Return the README's table as Markdown; figures that were not measured are left out."""
    lines = []
    for headline in HEADLINES:
        if headline.report in reports:
            _, rows_of = SECTIONS[headline.report]
            rows = {row.key: row for row in rows_of(reports[headline.report])}
            lines.append(([headline.reader, headline.what], rows[headline.key]))
    return _table(["For", "Figure"], lines)


def with_figures(text: str, block: str) -> str:
    """Return a page with the figures between its two markers replaced.

    Raises:
        ValueError: The markers are not there exactly once, in order.
    """
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise ValueError(f"expected one line {START!r} and, below it, one line {END!r}")
    before, rest = text.split(START)
    return f"{before}{START}\n{block}\n{END}{rest.split(END)[1]}"


def updated_pages() -> dict[Path, str]:
    """Return the text that README and the page of measurements should have, by path."""
    reports = read_reports(RESULTS)
    blocks = {PAGE: figures_block(reports), README: headlines_block(reports)}
    return {path: with_figures(path.read_text("utf-8"), block) for path, block in blocks.items()}


def _table(columns: list[str], lines: list[tuple[list[str], Row]]) -> str:
    head = [*columns, "measured", "required", ""]
    text = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for cells, row in lines:
        verdict = {True: "met", False: "**missed**", None: "not yet run"}[row.holds]
        text.append(f"| {' | '.join([*cells, row.value, row.limit, verdict])} |")
    return "\n".join(text)


def _masks_table(reports: Reports) -> str:
    """Compare the models of all masks on the same stories; the required values are those of `mask2dit`."""
    head = ["Figure", *(f"[`{mask}`](../benchmarks/results/{name}.json)" for mask, name in MASKS.items())]
    rows = {mask: list(quality_rows(reports[name])) for mask, name in MASKS.items()}
    # The attribute classifier and the VAE are the same for all masks.
    keys = [row.key for row in rows["mask2dit"] if not row.key.startswith(("reader.", "codec."))]
    found = {mask: {row.key: row for row in mask_rows} for mask, mask_rows in rows.items()}
    text = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key in keys:
        cells = [found["mask2dit"][key].what, *(found[mask][key].value for mask in MASKS)]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def _origin(name: str, report: Mapping[str, Any]) -> str:
    """Return a line that says how and on what machine the figures of a table were measured."""
    facts = [f"[`{name}.json`](../benchmarks/results/{name}.json)"]
    num_stories = report.get("num_stories") or report.get("chain", {}).get("num_stories")
    if num_stories:
        sampling = report["sampling"]
        facts.append(f"{num_stories} stories, {sampling['num_inference_steps']} steps")
        facts.append("95 % intervals over stories in brackets")
    if "cores" in report:
        facts.append(f"{report['story']}, {report['cores']} CPU cores")
    facts.extend(_machine_facts(report))
    if "how" in report:
        facts.append(report["how"])
    return f"<sub>{', '.join(facts)}</sub>"


def _machine_facts(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the machine and versions that a report names."""
    machine = report.get("machine")
    versions = report.get("versions", {})
    if isinstance(machine, Mapping):
        versions = machine["versions"]
        yield machine.get("card") or f"{machine['processor']}, {machine['threads']} threads"
    elif machine:
        yield machine
    torch = report.get("torch") or versions.get("torch")
    if torch:
        yield f"torch {torch}"
    # Counted, not timed.
    elif machine is None:
        yield f"m2d {report['m2d']}"


def main() -> int:
    """Rewrite the tables, or check whether they are up to date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; fail when a table is out of date"
    )
    check: bool = parser.parse_args().check
    stale = {path: text for path, text in updated_pages().items() if path.read_text("utf-8") != text}
    if check:
        names = ", ".join(path.name for path in stale)
        sys.stdout.write(
            f"out of date: {names}; run python -m benchmarks.measurements\n" if stale else "up to date\n"
        )
        return 1 if stale else 0
    for path, text in stale.items():
        write_bytes(path, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
