from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measurement_rows import SECTIONS
from benchmarks.measurements import (
    END,
    HEADLINES,
    RESULTS,
    START,
    figures_block,
    headlines_block,
    read_reports,
    updated_pages,
    with_figures,
)

ORACLE = {"max_abs_error": 7.15e-7, "tolerance": 5e-6, "within_tolerance": True, "torch": "2.13.0"}
STARTUP: dict[str, Any] = {
    "figures": {"help_s": 0.312, "generate_s": 41.2, "generate_peak_bytes": 2**31},
    "limits": {"help_s": 0.5, "generate_s": 60.0, "generate_peak_bytes": 2**32},
    "kept": {"help_s": True, "generate_s": True, "generate_peak_bytes": True},
    "identical_frames": True,
    "story": "first-snow.yaml",
    "cores": 2,
    "machine": "Linux x86_64",
    "versions": {"torch": "2.13.0"},
}


SPEED: dict[str, Any] = {
    "trials": [
        {
            "key": "compiled",
            "name": "compiled / official",
            "target": 0.82,
            "ratios": {"median": 0.905},
            "verdict": "faster",
            "is_kept": False,
        },
        {
            "key": "kept",
            "name": "kept context / without",
            "target": 0.5,
            "ratios": {"median": 0.99},
            "verdict": "within the noise",
            "is_kept": False,
        },
        {"name": "a scale", "target": None, "ratios": {"median": 1.1}, "verdict": "slower", "is_kept": True},
    ],
    "machine": {"processor": "Some CPU", "threads": 2, "versions": {"torch": "2.13.0"}},
}
ADAPTER: dict[str, Any] = {
    "checks": [
        {"name": "steps", "value": 300, "bound": "at most", "target": 300, "holds": True},
        {
            "name": "scenes that show the new hat",
            "value": 0.95,
            "bound": "at least",
            "target": 0.9,
            "holds": True,
        },
        {
            "name": "lost on other stories, worst of 8 figures (hat)",
            "value": 0.041,
            "bound": "at most",
            "target": 0.03,
            "holds": False,
        },
    ],
    "machine": "Linux x86_64, 2 threads",
    "versions": {"torch": "2.13.0"},
}


def check(name: str, value: float | None, bound: str, target: float, holds: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "bound": bound, "target": target, "holds": holds}


QUALITY: dict[str, Any] = {
    "checks": [
        check("setting", 0.983, "at least", 0.9, True),
        check("action", 0.71, "at least", 0.8, False),
        check("hat", None, "at least", 0.9, False),
        check("drift.tree_x", 0.214, "at most", 0.4, True),
        check("reader.setting", 1.0, "at least", 0.98, True),
        check("reader.actor2.hat", 0.991, "at least", 0.98, True),
        check("codec.psnr_db", 29.62, "at least", 29.0, True),
    ],
    "figures": {"mask2dit": {"setting": {"value": 0.983, "low": 0.95, "high": 1.0, "count": 180}}},
    "drift_relative_to_isolated": {"tree_x": {"value": 0.214, "low": 0.18, "high": 0.25, "count": 180}},
    "num_stories": 60,
    "sampling": {"num_inference_steps": 25},
    "machine": "Linux x86_64, 2 threads",
    "versions": {"torch": "2.13.0"},
}


def test_readme_and_the_page_of_measurements_show_the_figures_of_the_results() -> None:
    for path, text in updated_pages().items():
        assert path.read_text("utf-8") == text, "run python -m benchmarks.measurements"


def test_readme_shows_ten_figures_for_three_readers() -> None:
    block = headlines_block(read_reports(RESULTS))
    assert len(block.splitlines()) == 2 + len(HEADLINES) == 2 + 10
    for reader in ("film makers", "researchers", "deployment"):
        assert block.count(f"| {reader} |") == 1


def test_readme_shows_no_figure_that_was_not_measured() -> None:
    assert headlines_block({"oracle": ORACLE}).splitlines()[2:] == [
        "| researchers | Largest error against the official Mask2DiT code, small random weights, float32 "
        "| 7.2e-07 | at most 5e-06 | met |"
    ]


def test_every_row_of_a_section_has_a_key_of_its_own() -> None:
    for name, report in read_reports(RESULTS).items():
        if name in SECTIONS:
            keys = [row.key for row in SECTIONS[name][1](report)]
            assert len(set(keys)) == len(keys), name


def test_every_figure_stands_beside_what_is_required() -> None:
    rows = figures_block({"oracle": ORACLE, "startup": STARTUP, "quality": QUALITY}).splitlines()
    for row in (
        "| Largest error against the official Mask2DiT code, float32 | 7.2e-07 | at most 5e-06 | met |",
        "| `m2d --help` | 0.31 s | at most 0.50 s | met |",
        "| Three-scene film, from the command to the finished file | 41 s | at most 60 s | met |",
        "| Peak memory while making it | 2.0 GiB | at most 4.0 GiB | met |",
        "| The same story and seed twice | identical frames | identical frames | met |",
        "| Setting as prompted | 98.3% (95.0% to 100.0%) | at least 90% | met |",
        "| The tree's place: difference between scenes, `isolated` = 100 % | 21.4% (18.0% to 25.0%) "
        "| at most 40% | met |",
        "| Attribute classifier on unseen clips, worst of 2 properties (actor2's hat) "
        "| 99.1% | at least 98% | met |",
        "| VAE on unseen clips, all pixels | 29.6 dB | at least 29 dB | met |",
    ):
        assert row in rows


def test_a_missed_figure_is_shown_as_missed() -> None:
    rows = figures_block({"quality": QUALITY}).splitlines()
    assert "| Action as prompted | 71.0% | at least 80% | **missed** |" in rows
    assert "| Hat as prompted | nothing to measure | at least 90% | **missed** |" in rows


def test_speeds_are_shares_and_those_without_a_target_have_no_row() -> None:
    block = figures_block({"speed": SPEED})
    rows = block.splitlines()
    assert "| compiled / official | 0.905 | at most 0.82 | **missed** |" in rows
    assert "| kept context / without | 0.990 (within the noise) | at most 0.50 | **missed** |" in rows
    assert "a scale" not in block
    assert "Some CPU, 2 threads, torch 2.13.0" in block


def test_what_a_card_is_to_reach_is_shown_before_and_after_it_was_run() -> None:
    what = "Time of a CogVideoX-5B block, official scheme = 100 %"
    assert f"| {what} |  | at most 85% | not yet run |" in figures_block({}).splitlines()
    report = {
        "checks": [{"name": "block_time", "value": 0.812, "bound": "at most", "target": 0.85, "holds": True}],
        "trials": [
            {"error": "RuntimeError: no", "name": "broken"},
            {"error": None, "name": "one", "is_equal": True},
            {
                "error": None,
                "key": "two",
                "name": "two",
                "is_equal": False,
                "relative_difference": 0.5,
                "tolerance": 0.03125,
            },
        ],
        "machine": {"card": "Some Card", "processor": "CPU", "threads": 2, "versions": {"torch": "2.11.0"}},
    }
    block = figures_block({"speed-gpu": report})
    assert f"| {what} | 81.2% | at most 85% | met |" in block.splitlines()
    assert "| Largest difference of the results: two | 5.0e-01 | at most 3e-02 | **missed** |" in block
    assert "Some Card, torch 2.11.0" in block


def test_of_exported_graphs_the_best_one_counts() -> None:
    backends = {name: {"noise_floor": 0.02} for name in ("aot", "onnx")}
    report = {"backends": backends, "best": "aot", "best_ratio": 0.919, "limit": 0.75, "is_kept": False}
    report |= {"story": "first-snow.yaml", "cores": 2, "machine": "Linux", "versions": {"torch": "2.13.0"}}
    what = "Whole command with the faster of `aot` and `onnx` (`aot`), `eager` in float32 = 100 %"
    row = f"| {what} | 91.9% (noise 2.0%) | at most 75% | **missed** |"
    assert row in figures_block({"cold_start": report}).splitlines()


def test_an_adapter_s_gains_and_losses_stand_side_by_side() -> None:
    rows = figures_block({"adapter": ADAPTER}).splitlines()
    assert "| Training steps | 300 | at most 300 | met |" in rows
    assert "| Scenes that show the new hat | 95.0% | at least 90% | met |" in rows
    assert "| Loss on other stories, worst figure | 4.1% | at most 3% | **missed** |" in rows


def test_masks_are_compared_on_the_same_figures() -> None:
    other = {**QUALITY, "checks": [check("setting", 0.5, "at least", 0.9, False), *QUALITY["checks"][1:]]}
    assert "Other masks" not in figures_block({"quality": QUALITY, "quality-causal": other})
    reports = {"quality": QUALITY, "quality-causal": other, "quality-anchor": QUALITY}
    own = "98.3% (95.0% to 100.0%)"
    rows = figures_block(reports).split("## Other masks")[1].splitlines()
    assert f"| Setting as prompted | {own} | 50.0% (95.0% to 100.0%) | {own} |" in rows
    assert not [row for row in rows if "classifier" in row or "VAE" in row]


def test_what_was_not_measured_has_no_row() -> None:
    assert "| met |" not in figures_block({})
    block = figures_block({"startup": STARTUP})
    assert "Mask2DiT" not in block
    assert "Setting" not in block


def test_the_table_says_where_figures_come_from() -> None:
    block = figures_block({"quality": QUALITY, "startup": STARTUP})
    assert "[`quality.json`](../benchmarks/results/quality.json), 60 stories, 25 steps" in block
    assert "first-snow.yaml, 2 CPU cores, Linux x86_64, torch 2.13.0" in block


def test_only_what_is_between_the_markers_changes() -> None:
    text = f"# Title\n{START}\nold\n{END}\nrest\n"
    assert with_figures(text, "new") == f"# Title\n{START}\nnew\n{END}\nrest\n"
    assert with_figures(with_figures(text, "new"), "new") == with_figures(text, "new")


@pytest.mark.parametrize("text", ["", START, END, f"{END}\n{START}", f"{START}\n{START}\n{END}"])
def test_a_page_without_the_two_markers_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected one line .* and, below it, one line"):
        with_figures(text, "new")


def test_results_are_read_by_name(tmp_path: Path) -> None:
    (tmp_path / "oracle.json").write_text(json.dumps(ORACLE))
    assert read_reports(tmp_path) == {"oracle": ORACLE}
