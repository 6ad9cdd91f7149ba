"""Watch: evaluate a training's validation films as they appear, beside the training.

Owns which films are complete, and the figures of all steps; `m2d.tasks.eval` measures. It may be stopped at
any time and repeated: steps that are evaluated stay so.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from m2d.errors import InputError
from m2d.evaluation.evaluate import EvalPlan
from m2d.evaluation.report import Report
from m2d.files import write_bytes
from m2d.film.journal_folder import has_journal
from m2d.folders import make_folder
from m2d.lock import is_held
from m2d.progress import Reporter
from m2d.reading import parse_json, read_text
from m2d.tasks.eval import evaluate_videos
from m2d.tasks.training_recipe import load_training_recipe
from m2d.training.recipe import TrainingRecipe
from m2d.training.stage import RECIPE
from m2d.training.trackers import Trackers
from m2d.training.validation import FOLDER

METRICS = "metrics.jsonl"
PAUSE_S = 5.0
_LARGEST_BYTES = 1 << 28


def watch_training(
    plan: EvalPlan, reporter: Reporter, *, pause: Callable[[float], None] = time.sleep
) -> list[dict[str, Any]]:
    """Evaluate the validation films of every step until the training ends, each once.

    Writes `metrics.jsonl` with a line for each step, a report in `step-N`, and a log for TensorBoard if that
    is installed.

    Args:
        plan: Its only path is the run folder of a training.
        pause: Waits for some seconds between two looks.

    Returns:
        The lines of all steps.

    Raises:
        InputError: The folder is no training with validation films; or as `evaluate_videos`.
        RecipeError: The training's recipe is not valid.
        BackendUnavailable, CheckpointError, OutputError: As `evaluate_videos`.
    """
    run, recipe = _training(plan)
    rows = _known(plan.out)
    reports = _new_reports(
        plan, run, recipe, done={row["step"] for row in rows}, reporter=reporter, pause=pause
    )
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    if not has_tensorboard:
        reporter.warn(f"TensorBoard is not installed; the figures are in {plan.out / METRICS} alone")
    make_folder(plan.out)
    trackers = Trackers(
        ["tensorboard"] if has_tensorboard else [], run=plan.out, title=recipe.title, config={}
    )
    try:
        for step, report in reports:
            values = {name: figure.as_json() for name, figure in report.figures.items()}
            rows.append({"step": step, "embedder": report.embedder or None, "figures": values})
            trackers.log(
                "validation", step=step, values={name: each["value"] for name, each in values.items()}
            )
            write_bytes(plan.out / METRICS, "".join(f"{json.dumps(row)}\n" for row in rows).encode("ascii"))
            reporter.note(f"step {step}: {plan.out / _name(step)}")
    finally:
        trackers.finish()
    return rows


def _training(plan: EvalPlan) -> tuple[Path, TrainingRecipe]:
    if len(plan.paths) != 1:
        raise InputError(f"{len(plan.paths)} folders; give the run folder of one training", argument="watch")
    (run,) = plan.paths
    if not (run / RECIPE).is_file():
        raise InputError(f"{run}: is no run folder of a training: it holds no {RECIPE}", argument="watch")
    recipe = load_training_recipe(run / RECIPE)
    if recipe.validation is None:
        raise InputError(
            f"{run}: the training makes no validation films; its recipe needs `validation`", argument="watch"
        )
    return run, recipe


def _new_reports(
    plan: EvalPlan,
    run: Path,
    recipe: TrainingRecipe,
    *,
    done: set[int],
    reporter: Reporter,
    pause: Callable[[float], None],
) -> Iterator[tuple[int, Report]]:
    assert recipe.validation is not None
    embedder = "puppet" if plan.embedder == "auto" and recipe.data.is_puppet else plan.embedder
    while True:
        is_running = is_held(run)
        for step, folder in _steps(run):
            if step in done or not _is_complete(
                folder, len(recipe.validation.stories), is_running=is_running
            ):
                continue
            out = plan.out / _name(step)
            of_step = replace(plan, paths=(folder,), out=out, embedder=embedder, force=True)
            yield step, evaluate_videos(of_step, reporter).report
            done.add(step)
        if not is_running:
            return
        pause(PAUSE_S)


def _steps(run: Path) -> list[tuple[int, Path]]:
    found = [(path.name.removeprefix("step-"), path) for path in (run / FOLDER).glob("step-*")]
    return sorted((int(number), path) for number, path in found if number.isdecimal() and path.is_dir())


def _is_complete(folder: Path, num_stories: int, *, is_running: bool) -> bool:
    films = list(folder.glob("*.mp4"))
    # A training that was killed leaves what it had.
    is_whole = len(films) == num_stories if is_running else bool(films)
    return is_whole and not any(map(has_journal, films))


def _known(out: Path) -> list[dict[str, Any]]:
    """Return the lines of an earlier call; raise InputError for a file of another form."""
    path = out / METRICS
    if not path.exists():
        return []
    try:
        rows = [parse_json(line) for line in read_text(path, limit_bytes=_LARGEST_BYTES).splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}; choose another folder", argument="out") from error
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise InputError(f"{path}: is not what m2d wrote; choose another folder", argument="out")
    return rows


def _name(step: int) -> str:
    return f"step-{step:08d}"
