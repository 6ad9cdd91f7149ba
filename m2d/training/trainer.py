"""The training loop: steps, checkpoints, log lines and held-out losses.

Owns when each of them happens, and saves a checkpoint before a stop. `step` runs a step, `state` saves it.
"""

# B batch, N scenes

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import torch

from m2d.errors import Interrupted, Remedy
from m2d.progress import Reporter, StageProgress
from m2d.stop import StopRequest
from m2d.training.batches import held_out_batches
from m2d.training.log import LossMeter, SpeedMeter, TrainingLog
from m2d.training.optim import learning_rate_scale
from m2d.training.speed import flops_per_sample, matrix_rate
from m2d.training.state import TrainState, save_checkpoint
from m2d.training.step import Stepper, TrainingSetup
from m2d.training.trackers import Trackers

Outcome = Literal["finished", "out of time"]


class Watchers(NamedTuple):
    """Observers of a training, besides the log.

    Attributes:
        of_log: Receive the figures of the log, in the main process.
        of_steps: Called with the state after every step, in all processes, because they run a sharded model
            together; they do not change it.
    """

    of_log: Sequence[Trackers] = ()
    of_steps: Sequence[Callable[[TrainState], None]] = ()


class Trainer:
    """Trains one stage from its current state."""

    def __init__(
        self,
        setup: TrainingSetup,
        state: TrainState,
        *,
        reporter: Reporter,
        stop: StopRequest,
        watchers: Watchers = Watchers(),  # noqa: B008  # immutable
    ) -> None:
        """Prepare to train `state`; reads and writes no files. Raises: as `Stepper`."""
        self.setup = setup
        self.state = state
        self.reporter = reporter
        self._stop = stop
        self._watchers = watchers
        self._stepper = Stepper(setup, state)
        self._num_timesteps = setup.schedule.num_timesteps
        self._losses = LossMeter(num_timesteps=self._num_timesteps, processes=setup.processes)
        self._speed = SpeedMeter(
            batch_size=setup.recipe.batch_size,
            matrix_rate=matrix_rate(setup.processes.device, getattr(torch, setup.recipe.precision)),
            num_processes=setup.processes.count,
        )
        self._flops = {layout: flops_per_sample(state.model, layout) for layout in setup.layouts.values()}
        self._saved_at_s = time.monotonic()
        self._saved_step = -1
        self._shown_step = 0
        self._heads_loss: float | None = None

    def run(self, *, max_minutes: float | None = None) -> Outcome:
        """Train until the recipe's steps are done or the time is up, and save a checkpoint.

        Raises:
            Interrupted: SIGTERM or SIGINT came; a checkpoint was saved first.
            DivergedError: The loss or the gradient was not finite; the last checkpoint is intact.
            OutputError: The disk refused; the last checkpoint is intact.
        """
        deadline_s = time.monotonic() + max_minutes * 60 if max_minutes is not None else math.inf
        self.state.model.train()
        try:
            self._run_until(deadline_s)
        except Interrupted:
            self._save()
            raise
        finally:
            for watcher in self._watchers.of_log:
                watcher.finish()
        self._save()
        return "finished" if self.state.step >= self.setup.recipe.steps else "out of time"

    def held_out_loss(self) -> dict[str, Any]:
        """Return the losses of the averaged weights on the held-out stories; empty without such stories.

        Raises:
            Interrupted: SIGTERM or SIGINT came.
        """
        setup, processes = self.setup, self.setup.processes
        if not setup.recipe.data.held_out:
            return {}
        meter = LossMeter(num_timesteps=self._num_timesteps, processes=processes)
        batches = list(
            held_out_batches(
                setup.recipe, setup.stories, num_timesteps=self._num_timesteps, device=processes.device
            )
        )
        with torch.no_grad():
            for first in range(0, len(batches), processes.count):
                self._stop_if_asked()
                # All processes run a sharded model together: one without a batch repeats one and ignores it.
                place = first + processes.index
                batch = batches[min(place, len(batches) - 1)]
                errors_BN = self._stepper.errors_of(self.state.average.model, batch)
                is_mine = place < len(batches)
                meter.add(errors_BN, batch._replace(is_target_BN=batch.is_target_BN & is_mine))
        return meter.read()

    def _run_until(self, deadline_s: float) -> None:
        recipe, state = self.setup.recipe, self.state
        is_main = self.setup.processes.is_main
        log = TrainingLog(self.setup.run, resumed_at=state.step) if is_main else None
        with self.reporter.stage(f"train {recipe.stage}", total=recipe.steps) as progress:
            is_over = state.step >= recipe.steps
            while not is_over:
                self._stop_if_asked()
                self._do_step()
                is_late = time.monotonic() >= deadline_s
                is_due = time.monotonic() - self._saved_at_s >= recipe.checkpoint.every_s
                is_over, is_due = self.setup.processes.agree([is_late, is_due])
                is_over = is_over or state.step >= recipe.steps
                self._do_chores(log, progress, is_last=is_over, is_save_due=is_due)

    def _do_step(self) -> None:
        started_s = time.perf_counter()
        figures = self._stepper.step(self._losses)
        self._heads_loss = figures.heads_loss
        step_s = time.perf_counter() - started_s
        self._speed.add(
            data_s=figures.data_s,
            step_s=step_s,
            grad_norm=figures.grad_norm,
            tokens_per_sample=figures.layout.num_tokens,
            flops_per_sample=self._flops[figures.layout],
        )
        for watcher in self._watchers.of_steps:
            watcher(self.state)

    def _do_chores(
        self, log: TrainingLog | None, progress: StageProgress, *, is_last: bool, is_save_due: bool
    ) -> None:
        recipe, step = self.setup.recipe, self.state.step
        if step % recipe.log_every_steps == 0 or is_last:
            values = self._figures()
            self._record(log, "train", values)
            detail = f"loss {values['loss']:.4f}, {values['samples_per_s']:.1f} samples/s"
            progress.advance(step - self._shown_step, detail=detail)
            self._shown_step = step
        every_steps = recipe.checkpoint.every_steps
        if is_save_due or (every_steps and step % every_steps == 0):
            self._save()
        if recipe.data.held_out and (step % recipe.evaluation.every_steps == 0 or is_last):
            values = self.held_out_loss()
            self._record(log, "held-out", values)
            self.reporter.note(f"step {step}: held-out loss {values['loss']:.4f}")

    def _figures(self) -> dict[str, Any]:
        recipe, step = self.setup.recipe, self.state.step
        scale = learning_rate_scale(recipe.schedule, step=step - 1, num_steps=recipe.steps)
        rate = {"stage": recipe.stage, "learning_rate": recipe.optimizer.lr * scale}
        heads = {} if self._heads_loss is None else {"heads_loss": self._heads_loss}
        return {**self._losses.read(), **heads, **rate, **self._speed.read()}

    def _record(self, log: TrainingLog | None, kind: str, values: dict[str, Any]) -> None:
        if log is None:
            return
        log.write(kind, step=self.state.step, **values)
        for watcher in self._watchers.of_log:
            watcher.log(kind, step=self.state.step, values=values)

    def _stop_if_asked(self) -> None:
        is_asked = self.setup.processes.agree([bool(self._stop.reason)])[0]
        if is_asked:
            raise Interrupted(
                f"{self._stop.reason or 'a signal to another process'} after step {self.state.step} of "
                f"{self.setup.recipe.steps}; saved in {self.setup.run}",
                remedy=Remedy.RESUME_TRAINING,
            )

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        setup = self.setup
        save_checkpoint(
            setup.run,
            self.state,
            facts=setup.facts,
            keep=setup.recipe.checkpoint.keep,
            processes=setup.processes,
        )
        self._saved_step, self._saved_at_s = self.state.step, time.monotonic()
