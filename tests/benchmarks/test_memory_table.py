"""The tables of memory and minutes are those of the measured file."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import memory_table

REPORT = json.loads(memory_table.RESULTS.read_text("utf-8"))
README = Path(__file__).parents[2] / "README.md"


def test_the_documents_show_the_recorded_tables() -> None:
    document = memory_table.DOCUMENT.read_text("utf-8")
    assert memory_table.with_tables(document, REPORT) == document
    assert [row for row in memory_table.readme_rows(REPORT) if row not in README.read_text("utf-8")] == []


def test_the_bounds_are_kept() -> None:
    assert REPORT["is_kept"] is True
