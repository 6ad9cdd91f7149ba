"""Candidates: score the films of several seeds of one story, and keep which is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from m2d.errors import InputError
from m2d.evaluation.evaluate import EvalPlan, check_networks, evaluate
from m2d.evaluation.report import Report
from m2d.files import write_json
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan
from m2d.video.printable import printable

Judge = Literal["sequence", "visual", "semantic", "cross_talk", "smoothness"]
_SCORES: tuple[Judge, ...] = ("sequence", "visual", "semantic", "cross_talk", "smoothness")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One film of a story.

    Attributes:
        scores: By judge; NaN where it has none, such as `sequence` of a single scene.
    """

    seed: int
    film: Path
    scores: Mapping[Judge, float]


def check_judge(judge: Judge, plans: Sequence[RunPlan]) -> None:
    """Check, before films are made, that they can be scored.

    Raises:
        InputError: A scene has one frame, or the judge compares scenes, and a film has one.
        CheckpointError: Networks are missing.
    """
    if any(scene.num_frames == 1 for plan in plans for scene in plan.scenes):
        raise InputError("a scene has 1 frame; scores need 2 at least", argument="judge")
    if judge not in ("semantic", "smoothness") and any(len(plan.scenes) == 1 for plan in plans):
        message = f"{judge} compares scenes, and a film has one; use semantic or smoothness"
        raise InputError(message, argument="judge")
    if judge != "smoothness" and not all(plan.source.is_puppet for plan in plans):
        check_networks(has_prompts=True, has_reference=False)


def ranked_candidates(
    films: Mapping[int, Path], judge: Judge, *, device: str, reporter: Reporter
) -> tuple[list[Candidate], Report]:
    """Score the films of a story by `m2d eval`'s code, and return them from best to worst.

    Args:
        films: Film of each seed.

    Raises:
        M2DError: As `evaluate`.
    """
    plan = EvalPlan(
        paths=tuple(films.values()),
        out=Path(),
        embedder="none" if judge == "smoothness" else "auto",
        device=device,
    )
    report = evaluate(plan, reporter)
    found = [
        Candidate(seed=seed, film=film, scores=_scores(report, printable(film.stem)))
        for seed, film in films.items()
    ]
    return sorted(found, key=lambda each: _order(each.scores[judge])), report


def write_candidates(path: Path, candidates: Sequence[Candidate], judge: Judge, report: Report) -> None:
    """Write seeds and scores from best to worst as JSON; an existing file is replaced."""
    rows = [
        {
            "seed": each.seed,
            "film": each.film.name,
            "scores": {name: None if math.isnan(of) else round(of, 4) for name, of in each.scores.items()},
        }
        for each in candidates
    ]
    networks = dict(report.networks)
    write_json(path, {"judge": judge, "embedder": report.embedder, "networks": networks, "candidates": rows})


def _scores(report: Report, story: str) -> dict[Judge, float]:
    rows = [row.values for row in report.rows if row.story == story]

    def mean(name: str) -> float:
        known = [row[name] for row in rows if not math.isnan(row.get(name, math.nan))]
        return sum(known) / len(known) if known else math.nan

    found: dict[Judge, float] = {name: mean(name) for name in _SCORES}
    return found | {"sequence": (found["visual"] + found["semantic"]) / 2}


def _order(score: float) -> float:
    return math.inf if math.isnan(score) else -score
