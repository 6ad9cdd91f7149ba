"""Targets of the puppet model, and whether they are met. Takes tallies and reports; measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from m2d.evaluation.intervals import Figure, Tally, figure_of, ratio_of
from m2d.puppet.story_scores import DIFFERENCES, EYES_AGREEMENT

JOINT, APART, SINGLE = "mask2dit", "isolated", "single"
"""How scenes are generated: jointly, jointly without seeing each other, one by one."""
PROMPTED_TARGETS = {
    **dict.fromkeys(("colour", "shape", "hat", "setting", "time"), 0.90),
    "on_stage": 0.95,
    "action": 0.80,
}
LEAKAGE_TARGET, DRIFT_TARGET = 0.05, 0.40
READER_TARGET = 0.98
CODEC_TARGETS = {"psnr_db": 29.0, "psnr_actors_db": 24.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One figure against its target.

    Attributes:
        name: Name of the figure.
        value: The measured value; None if there was nothing to measure.
        bound: `at least` or `at most`.
        target: The limit.
    """

    name: str
    value: float | None
    bound: str
    target: float

    @property
    def holds(self) -> bool:
        """Return whether the value meets its limit."""
        if self.value is None:
            return False
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target


def judge(
    tallies: Mapping[str, Mapping[str, Tally]],
    *,
    reader_report: Mapping[str, Any],
    codec_report: Mapping[str, Any],
    joint: str = JOINT,
    is_changing: bool = False,
) -> dict[str, Any]:
    """Turn tallies into figures, and compare them with their targets.

    Args:
        tallies: Tallies by generation method: `joint` and APART, or SINGLE, and any others.
        reader_report: Has `accuracy` per property.
        codec_report: Has the keys of CODEC_TARGETS.
        joint: The mask of jointly generated scenes.
        is_changing: Whether the stories change place or time: a setting that leaks and eyes that differ have
            targets, too.
    """
    figures = {name: {key: figure_of(each) for key, each in group.items()} for name, group in tallies.items()}
    drift: dict[str, Figure] = {}
    if APART in tallies:
        drift = {
            name: ratio_of(tallies[joint][key], tallies[APART][key]) for name, key in DIFFERENCES.items()
        }
        if is_changing:
            drift["eyes"] = ratio_of(*(_others(tallies[name][EYES_AGREEMENT]) for name in (joint, APART)))
    checks = [
        *_story_checks(figures[joint if joint in figures else SINGLE], drift, is_changing=is_changing),
        *(
            Check(name=f"reader.{name}", value=share, bound="at least", target=READER_TARGET)
            for name, share in reader_report["accuracy"].items()
        ),
        *(
            Check(name=f"codec.{name}", value=codec_report[name], bound="at least", target=target)
            for name, target in CODEC_TARGETS.items()
        ),
    ]
    return {
        "figures": {name: _as_json(group) for name, group in figures.items()},
        "drift_relative_to_isolated": _as_json(drift),
        **check_report(checks),
    }


def check_report(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as JSON values, and whether all of them hold."""
    return {
        "checks": [asdict(check) | {"holds": check.holds} for check in checks],
        "all_hold": all(check.holds for check in checks),
    }


def _others(tally: Tally) -> Tally:
    """Return the tally of what the other tally counts as wrong."""
    return Tally(amounts_S=tally.counts_S - tally.amounts_S, counts_S=tally.counts_S)


def _story_checks(
    figures: Mapping[str, Figure], drift: Mapping[str, Figure], *, is_changing: bool
) -> list[Check]:
    """Check the figures of stories; scenes made one by one have targets for prompted properties only."""
    values = {name: figure.as_json()["value"] for name, figure in figures.items()}
    checks = [
        Check(name=name, value=values[name], bound="at least", target=target)
        for name, target in PROMPTED_TARGETS.items()
    ]
    if drift:
        checks += [
            Check(name=name, value=values[name], bound="at most", target=LEAKAGE_TARGET)
            for name in ("leakage", *(["leakage.setting"] if is_changing else []))
        ]
    checks += [
        Check(name=f"drift.{name}", value=ratio.as_json()["value"], bound="at most", target=DRIFT_TARGET)
        for name, ratio in drift.items()
    ]
    return checks


def _as_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    return {name: figure.as_json() for name, figure in figures.items()}


def summary(report: Mapping[str, Any]) -> str:
    """Return the checks as readable lines."""
    lines = []
    for check in report["checks"]:
        value = "nothing to measure" if check["value"] is None else f"{check['value']:.4g}"
        verdict = "ok  " if check["holds"] else "MISS"
        lines.append(f"{verdict}  {check['name']:<20} {value:>8}  {check['bound']} {check['target']:g}")
    return "\n".join(lines)
