"""Eval: measure a set of videos, compare it with a reference, and write the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from m2d.errors import InputError
from m2d.evaluation.evaluate import EvalPlan, check_device, find, measure
from m2d.evaluation.layouts import check_layouts, export_layout
from m2d.evaluation.report import Report, as_html, as_json, as_markdown, check_no_report
from m2d.files import check_writable, write_bytes, write_json
from m2d.folders import make_folder
from m2d.progress import Reporter

RESULTS, TABLE, PAGE = "results.json", "report.md", "index.html"


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalResult:
    """The report, and its files."""

    report: Report
    out: Path


def evaluate_videos(plan: EvalPlan, reporter: Reporter) -> EvalResult:
    """Measure all videos and write the report.

    Measurements are cached by the content of the videos: a repeated call continues where an interrupted one
    stopped.

    Raises:
        InputError: No video can be read, a scene has no prompt, a layout is unknown, or the sets cannot be
            compared.
        BackendUnavailable: The device is not here.
        CheckpointError: Weights of the networks are missing or of another network.
        OutputError: A report is there already, or the disk refused.
    """
    check_device(plan.device)
    check_no_report(plan.out, (RESULTS, TABLE, PAGE), force=plan.force)
    check_layouts(plan.exports)
    found = find(plan)
    if plan.exports and not all(story.prompts for story in found.stories):
        raise InputError("other benchmarks need the scenes' prompts; give them", argument="prompts")
    report = measure(plan, found, reporter)
    measured_names = {row.story for row in report.rows}
    whole = [story for story in found.stories if story.name in measured_names]
    for layout in plan.exports:
        export_layout(layout, whole, plan.out / layout, reporter)
    _write(report, plan)
    return EvalResult(report=report, out=plan.out)


def _write(report: Report, plan: EvalPlan) -> None:
    """Write the three files, the results last: they mark a complete report."""
    make_folder(plan.out)
    check_writable(plan.out / RESULTS, force=plan.force)
    write_bytes(plan.out / PAGE, as_html(report).encode("ascii"))
    write_bytes(plan.out / TABLE, as_markdown(report).encode("utf-8"))
    write_json(plan.out / RESULTS, as_json(report), force=plan.force)
