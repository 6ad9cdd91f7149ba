"""Train: run a training recipe, or predict what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from m2d.errors import InputError
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.loader import load_document
from m2d.stop import StopRequest
from m2d.training.launcher import refuse_for_deepspeed
from m2d.training.needs import STRATEGIES, TrainingNeeds, training_needs
from m2d.training.processes import start_processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.stage import TrainingPlan, TrainingReport, run_stage


def plan_training(
    recipe: Path,
    *,
    stage: str | None = None,
    model: str | None = None,
    init: str | None = None,
    run: Path | None = None,
    resume: str | None = None,
    num_threads: int | None = None,
    cache: Path | None = None,
) -> TrainingPlan:
    """Read a training recipe and apply the given options.

    Args:
        stage: Must be the recipe's own, when given; `model` and `init` replace the recipe's.
        run: Run folder; `runs/RECIPE` when not given.
        resume: `latest`, or None for a new training.

    Raises:
        RecipeError: The recipe is wrong.
        InputError: An option contradicts the recipe.
    """
    document = _load_recipe(recipe, model=model, init=init)
    if stage is not None and stage != document.stage:
        raise InputError(
            f"{recipe} is a recipe for stage {document.stage}; give that recipe", argument=f"stage {stage}"
        )
    if resume not in (None, "latest"):
        raise InputError(
            "only 'latest' is known, the newest checkpoint that verifies", argument=f"resume {resume}"
        )
    if init == "random" and document.transformer is None:
        raise InputError(
            f"{recipe} gives no transformer sizes; add a transformer section", argument="init random"
        )
    return TrainingPlan(
        recipe=document,
        run=run if run is not None else Path("runs") / recipe.stem,
        resume=resume is not None,
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
    processes = start_processes(plan.recipe.device)
    # Before stories are encoded, which can take hours.
    refuse_for_deepspeed(plan.recipe, processes.sharing)
    reporter = reporter if processes.is_main else SilentReporter()
    with StopRequest() as stop:
        report = run_stage(plan, processes, reporter, stop)
    processes.leave()
    return report


def plan_needs(
    recipe: Path,
    *,
    num_devices: int = 1,
    strategy: str = "ddp",
    model: str | None = None,
    init: str | None = None,
) -> TrainingNeeds:
    """Work out what a training recipe needs on `num_devices` devices, with `model` and `init` replaced.

    Args:
        strategy: How the devices share the training: `ddp`, `zero2`, `zero3` or `fsdp2`.

    Raises:
        RecipeError: The recipe is wrong.
        InputError: An unknown strategy; otherwise as `training_needs`.
    """
    known = next((name for name in STRATEGIES if name == strategy), None)
    if known is None:
        raise InputError(f"allowed: {', '.join(STRATEGIES)}", argument=f"strategy {strategy}")
    document = _load_recipe(recipe, model=model, init=init)
    return training_needs(document, num_devices=num_devices, strategy=known)


def _load_recipe(path: Path, *, model: str | None, init: str | None) -> TrainingRecipe:
    recipe = load_document(path, TrainingRecipe)
    changes: dict[str, Any] = {"model": model, "init": init}
    changes = {name: value for name, value in changes.items() if value is not None}
    if init not in (None, "random"):
        # The sizes are those of the weights that the training starts from.
        changes["transformer"] = None
    return recipe.model_copy(update=changes)
