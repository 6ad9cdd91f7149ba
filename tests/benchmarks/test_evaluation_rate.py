from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.evaluation_rate import BLOCK, MANY, PAGE, RESULTS, Sets, holds, table
from benchmarks.page import with_block

ROW = {"num_clips": 60, "wall_s": 300.0, "cpu_s": 400.0, "peak_bytes": 10**9}
REPORT: dict[str, Any] = {
    "measured": [ROW | {"num_clips": 20}, ROW],
    "copies": ROW | {"num_clips": MANY},
    "clips_per_minute": 12.0,
    "hours_for_1000_extrapolated": 1.4,
    "peak_ratio": 1.02,
    "peak_ratio_of_copies": 1.1,
    "killed": {
        "num_clips": 20,
        "was_killed": True,
        "num_measured_before": 7,
        "num_measured_after": 13,
        "is_kept": True,
        "is_same_result": True,
    },
    "threads": 2,
    "load_average": {"before": 0.1, "after": 1.9},
}


@pytest.mark.parametrize(
    ("part", "change", "expected"),
    [
        (None, {}, True),
        (None, {"peak_ratio": 1.2}, False),
        (None, {"peak_ratio_of_copies": 1.2}, False),
        ("killed", {"was_killed": False}, False),
        ("killed", {"is_kept": False}, False),
        ("killed", {"is_same_result": False}, False),
        ("killed", {"num_measured_after": 20}, False),
    ],
)
def test_growing_memory_or_another_result_fails(
    part: str | None, change: dict[str, Any], expected: bool
) -> None:
    assert holds(REPORT | change if part is None else REPORT | {part: REPORT[part] | change}) == expected


def test_more_clips_are_copies_under_other_names(tmp_path: Path) -> None:
    for name in ("all/videos", "all/reference"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / name / f"clip-{number}.mp4").write_text(f"{name} {number}")
    many = Sets(tmp_path / "all").resized(tmp_path / "many", count=10)
    assert [path.read_text()[-1] for path in sorted((many.folder / "videos").iterdir())] == list("01201")
    assert len(list((many.folder / "reference").iterdir())) == 5
    assert len(list((many.folder / "prompts").iterdir())) == 5


def test_the_page_has_the_table_of_the_result() -> None:
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else None
    text = PAGE.read_text("utf-8")
    assert with_block(text, BLOCK, table(report)) == text
    assert "| rate, measured on 60 | 300 s: 12.0 clips a minute |" in table(REPORT)
