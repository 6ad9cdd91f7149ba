"""Train: run a training recipe, or predict what it needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from m2d.errors import InputError
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.settings import Setting
from m2d.stop import StopRequest
from m2d.tasks.training_recipe import load_training_recipe, run_folder_for
from m2d.training.launcher import refuse_for_deepspeed
from m2d.training.needs import STRATEGIES, TrainingNeeds, training_needs
from m2d.training.optim import schedule_warnings
from m2d.training.processes import Processes, start_processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.stage import TrainingPlan, TrainingReport, run_stage
from m2d.training.validation import check_stories


def plan_training(
    recipe: Path,
    *,
    model: str | None = None,
    init: str | None = None,
    settings: Sequence[Setting] = (),
    run: Path | None = None,
    resume: bool = False,
    num_threads: int | None = None,
    cache: Path | None = None,
) -> TrainingPlan:
    """Read a training recipe and apply the given options.

    Args:
        model, init, settings: As in `load_training_recipe`.
        run: Run folder; `runs/RECIPE` when not given.
        resume: Continue from the newest checkpoint of the run folder that verifies.

    Raises: as `load_training_recipe`.
    """
    return TrainingPlan(
        recipe=load_training_recipe(recipe, model=model, init=init, settings=settings),
        run=run if run is not None else run_folder_for(recipe),
        resume=resume,
        num_threads=num_threads,
        cache=cache,
    )


def run(plan: TrainingPlan, reporter: Reporter) -> TrainingReport:
    """Train and export.

    Raises:
        BackendUnavailable: The recipe's device is not there.
        M2DError: As `run_stage`.
    """
    if plan.num_threads is not None:
        torch.set_num_threads(plan.num_threads)
    return run_in(start_processes(plan.recipe.device), plan, reporter)


def run_in(processes: Processes, plan: TrainingPlan, reporter: Reporter) -> TrainingReport:
    """Train and export in processes that are started already. Raises: as `run`."""
    # Before stories are encoded, which can take hours.
    refuse_for_deepspeed(plan.recipe, processes.sharing)
    check_stories(plan.recipe)
    reporter = reporter if processes.is_main else SilentReporter()
    warn_of_schedule(plan.recipe, reporter)
    with StopRequest() as stop:
        report = run_stage(plan, processes, reporter, stop)
    processes.leave()
    return report


def warn_of_schedule(recipe: TrainingRecipe, reporter: Reporter) -> None:
    """Warn of learning rates that never reach their values."""
    for warning in schedule_warnings(recipe.schedule, num_steps=recipe.steps):
        reporter.warn(warning)


def plan_needs(recipe: TrainingRecipe, *, num_devices: int = 1, strategy: str = "ddp") -> TrainingNeeds:
    """Work out what a training recipe needs on `num_devices` devices.

    Args:
        strategy: How the devices share the training: `ddp`, `zero2`, `zero3` or `fsdp2`.

    Raises:
        InputError: An unknown strategy; otherwise as `training_needs`.
    """
    known = next((name for name in STRATEGIES if name == strategy), None)
    if known is None:
        raise InputError(f"allowed: {', '.join(STRATEGIES)}", argument=f"strategy {strategy}")
    return training_needs(recipe, num_devices=num_devices, strategy=known)
