"""The training loop of the embedded model's small parts: VAE, text encoder, attribute classifier.

Owns when steps, checkpoints and evaluations happen; the caller computes the loss. `m2d.training.trainer`
trains the transformer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from m2d.errors import M2DError
from m2d.limits import LARGEST_SEED
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.training.log import TrainingLog
from m2d.training.optim import AveragedModel, ModelOptimizer, learning_rate_scale, schedule_warnings
from m2d.training.recipe import CheckpointRecipe
from m2d.training.recipe_parts import Beta, OptimizerRecipe, ScheduleRecipe
from m2d.training.state import TrainState, find_checkpoint, load_checkpoint, save_checkpoint


class FitRecipe(BaseModel):
    """The settings that the trainings of all parts share; the schedule has `steps` steps."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    title: str
    steps: int = Field(ge=1)
    optimizer: OptimizerRecipe
    schedule: ScheduleRecipe = ScheduleRecipe()
    ema_decay: Beta = 0.99
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    log_every_steps: int = Field(default=100, ge=1)
    evaluate_every_steps: int = Field(default=1000, ge=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The training of one part.

    Attributes:
        loss_at: Returns the scalar loss of step k, with data that depend on k alone, so that a resumed run
            sees the same data.
        evaluate: Returns figures of the averaged model on held-out data, as JSON.
    """

    name: str
    model: nn.Module
    loss_at: Callable[[int], Tensor]
    evaluate: Callable[[Any], Mapping[str, Any]]
    run: Path


def run_fit(
    fit: Fit, recipe: FitRecipe, *, reporter: Reporter, stop: StopRequest, max_minutes: float | None = None
) -> nn.Module:
    """Train from the run's newest checkpoint that verifies, or from the start; return the averaged model.

    Raises:
        Interrupted: A signal came; a checkpoint was saved first.
        M2DError: The loss or the gradient was not finite; the last checkpoint is intact.
    """
    state = TrainState(
        model=fit.model,
        average=AveragedModel(fit.model, decay=recipe.ema_decay),
        optimizer=ModelOptimizer(fit.model, recipe.optimizer),
    )
    found = find_checkpoint(fit.run)
    for warning in (*found.rejected, *schedule_warnings(recipe.schedule, num_steps=recipe.steps)):
        reporter.warn(warning)
    if found.path is not None:
        load_checkpoint(found.path, state)
        reporter.note(f"{fit.name}: resuming after step {state.step}")
    fit.run.mkdir(parents=True, exist_ok=True)
    _loop(fit, recipe, state, reporter=reporter, stop=stop, max_minutes=max_minutes)
    return state.average.model


def _loop(
    fit: Fit,
    recipe: FitRecipe,
    state: TrainState,
    *,
    reporter: Reporter,
    stop: StopRequest,
    max_minutes: float | None,
) -> None:
    log = TrainingLog(fit.run, resumed_at=state.step)
    started_s = saved_s = time.monotonic()
    deadline_s = started_s + 60 * max_minutes if max_minutes is not None else math.inf
    losses: list[Tensor] = []
    state.model.train()
    with reporter.stage(f"train {fit.name}", total=recipe.steps - state.step) as progress:
        while state.step < recipe.steps and time.monotonic() < deadline_s and not stop.reason:
            losses.append(_step(fit, recipe, state))
            if state.step % recipe.log_every_steps == 0 or state.step == recipe.steps:
                loss, num_steps = float(torch.stack(losses).mean()), len(losses)
                losses.clear()
                log.write("train", step=state.step, loss=loss, seconds=round(time.monotonic() - started_s, 1))
                progress.advance(num_steps, detail=f"loss {loss:.4f}")
            if state.step % recipe.evaluate_every_steps == 0:
                log.write("held-out", step=state.step, **fit.evaluate(state.average.model))
            if time.monotonic() - saved_s >= recipe.checkpoint.every_s:
                save_checkpoint(fit.run, state, facts={}, keep=recipe.checkpoint.keep)
                saved_s = time.monotonic()
    save_checkpoint(fit.run, state, facts={}, keep=recipe.checkpoint.keep)
    stop.check(f"after step {state.step}; saved in {fit.run}, run the command again to resume")


def _step(fit: Fit, recipe: FitRecipe, state: TrainState) -> Tensor:
    loss = fit.loss_at(state.step)
    state.optimizer.backward(loss)
    value = float(loss.detach())
    scale = learning_rate_scale(recipe.schedule, step=state.step, num_steps=recipe.steps)
    norm = state.optimizer.step(rate_scale=scale) if math.isfinite(value) else math.nan
    if not math.isfinite(norm):
        raise M2DError(f"{fit.name}, step {state.step}: loss {value}, gradient norm {norm} are not finite")
    state.average.update(step=state.step)
    # Only weights are averaged; running statistics (batch norm) are copied.
    for average, buffer in zip(state.average.model.buffers(), state.model.buffers(), strict=True):
        average.copy_(buffer)
    state.step += 1
    return loss.detach()
