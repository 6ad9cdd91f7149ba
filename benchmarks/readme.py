"""The table of measured figures in README.md, written from `benchmarks/results/*.json`.

Run: `python -m benchmarks.readme` after a benchmark; `--check` only tells whether the table is up to date. No
figure in the README is typed by hand. Owns the tables' form; their rows are `readme_rows`. Measures nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.readme_rows import PENDING, SECTIONS, Row
from m2d.files import write_bytes

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = Path(__file__).parent / "results"
START = "<!-- figures: written by `python -m benchmarks.readme`, do not edit -->"
END = "<!-- end of figures -->"

Reports = Mapping[str, Mapping[str, Any]]


def read_reports(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the results that are there, by file name without its ending."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}


def figures_block(reports: Reports) -> str:
    """Return the tables of all results that there are, as Markdown, and of those that are still to come."""
    parts = []
    for name, (title, rows_of) in SECTIONS.items():
        if name in reports:
            parts.append(_table(title, list(rows_of(reports[name]))))
            parts.append(_origin(name, reports[name]))
        elif name in PENDING:
            parts.append(_table(title, list(rows_of(PENDING[name]))))
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


def _table(title: str, rows: list[Row]) -> str:
    lines = [f"| {title} | measured | required | |", "|---|---|---|---|"]
    for row in rows:
        verdict = {True: "kept", False: "**missed**", None: "not yet run"}[row.holds]
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
    facts.extend(_machine_facts(report))
    if "how" in report:
        facts.append(report["how"])
    return f"<sub>{', '.join(facts)}</sub>"


def _machine_facts(report: Mapping[str, Any]) -> Iterator[str]:
    """What a result was measured on, as far as it says so."""
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
    # What was counted, and not timed.
    elif machine is None:
        yield f"m2d {report['m2d']}"


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
