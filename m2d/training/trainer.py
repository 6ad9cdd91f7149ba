"""The training loop: batches in, steps, checkpoints, log lines and held-out losses out.

Owns when things happen and that nothing bad is saved; what is learned lives in `objective`, `sampling` and
`optim`, what is kept in `state`.
"""

# B batch, N scenes

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import Interrupted, M2DError
from m2d.files import write_json
from m2d.layout import SceneLayout
from m2d.progress import Reporter, StageProgress
from m2d.stop import StopRequest
from m2d.training.batches import BatchMaker, held_out_batches, make_sampler
from m2d.training.cache import EncodedStories
from m2d.training.log import LossMeter, TrainingLog
from m2d.training.objective import TrainingBatch, masked_loss, velocity_errors
from m2d.training.optim import learning_rate_scale
from m2d.training.recipe import TrainingRecipe
from m2d.training.sampling import BatchDraw
from m2d.training.state import TrainState, save_checkpoint

Outcome = Literal["finished", "out of time"]


class DivergedError(M2DError):
    """The loss or the gradient was not finite; the weights are those before the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """What stays the same throughout a run.

    Attributes:
        recipe: The knobs.
        stories: Encoded stories, held-out ones included.
        schedule: Noise levels of the model folder's scheduler.
        layout: The layout of every sample.
        device: Where the weights are.
        run: The run folder.
        facts: What checkpoints carry so that a resume can compare.
    """

    recipe: TrainingRecipe
    stories: EncodedStories
    schedule: VelocitySchedule
    layout: SceneLayout
    device: torch.device
    run: Path
    facts: Mapping[str, Any]


class Trainer:
    """Runs one stage from wherever its state stands."""

    def __init__(
        self, setup: TrainingSetup, state: TrainState, *, reporter: Reporter, stop: StopRequest
    ) -> None:
        """Prepare to train `state`; reads and writes no file yet."""
        recipe = setup.recipe
        self.setup = setup
        self.state = state
        self.reporter = reporter
        self._stop = stop
        self._schedule = setup.schedule.to(setup.device)
        num_timesteps = setup.schedule.num_timesteps
        self._sampler = make_sampler(recipe, setup.stories, num_timesteps=num_timesteps, held_out=False)
        self._maker = BatchMaker(
            stories=setup.stories, seed=recipe.seed, purpose="training noise", device=setup.device
        )
        if recipe.compile:
            # In place: parameter names, and with them checkpoints, stay as they are.
            for block in state.model.get_submodule("transformer_blocks").children():
                block.compile()
        self._meter = LossMeter(num_timesteps)
        self._saved_at_s = time.monotonic()
        self._saved_step = -1
        self._shown_step = 0

    def run(self, *, max_minutes: float | None = None) -> Outcome:
        """Train until the recipe's steps are done or the time is up; a checkpoint holds the state either way.

        Raises:
            Interrupted: SIGTERM or SIGINT came; a checkpoint was saved first.
            DivergedError: The loss or the gradient was not finite; the last checkpoint is from before.
        """
        recipe, state = self.setup.recipe, self.state
        deadline_s = time.monotonic() + max_minutes * 60 if max_minutes is not None else math.inf
        log = TrainingLog(self.setup.run, resumed_at=state.step)
        self.state.model.train()
        with self.reporter.stage(f"train {recipe.stage}", total=recipe.steps) as progress:
            is_over = state.step >= recipe.steps
            while not is_over:
                self._do_step()
                is_over = state.step >= recipe.steps or time.monotonic() >= deadline_s
                self._do_chores(log, progress, is_last=is_over)
                if self._stop.reason:
                    self._save()
                    raise Interrupted(
                        f"{self._stop.reason} after step {state.step} of {recipe.steps}; saved in "
                        f"{self.setup.run}, go on with --resume latest"
                    )
        self._save()
        return "finished" if state.step >= recipe.steps else "out of time"

    def held_out_loss(self) -> dict[str, Any]:
        """Return the losses of the averaged weights on the held-out stories."""
        meter = LossMeter(self._schedule.num_timesteps)
        setup = self.setup
        batches = held_out_batches(
            setup.recipe, setup.stories, num_timesteps=self._schedule.num_timesteps, device=setup.device
        )
        with torch.no_grad():
            for batch in batches:
                meter.add(self._errors_of(self.state.average.model, batch), batch, grad_norm=0.0)
        values = meter.read()
        return {name: value for name, value in values.items() if name.startswith("loss")}

    def _do_step(self) -> None:
        started_s = time.perf_counter()
        step = self.state.step
        draw = self._sampler.draw(step)
        batch = self._maker.make(draw, step=step)
        data_s = time.perf_counter() - started_s
        errors_BN = self._errors_of(self.state.model, batch)
        loss = masked_loss(errors_BN, batch.is_target_BN)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        grad_norm = float(self.state.optimizer.clip_gradients())
        self._refuse_non_finite(float(loss.detach()), grad_norm, draw)
        scale = learning_rate_scale(self.setup.recipe.schedule, step=step, num_steps=self.setup.recipe.steps)
        self.state.optimizer.step(rate_scale=scale)
        self.state.average.update(step=step)
        self.state.step = step + 1
        self._meter.add(errors_BN, batch, grad_norm=grad_norm)
        self._meter.add_time(data_s=data_s, step_s=time.perf_counter() - started_s)

    def _do_chores(self, log: TrainingLog, progress: StageProgress, *, is_last: bool) -> None:
        recipe, step = self.setup.recipe, self.state.step
        if step % recipe.log_every_steps == 0 or is_last:
            values = self._meter.read()
            log.write("train", step=step, **values)
            detail = f"loss {values['loss']:.4f}, {values['samples_per_s']:.1f} samples/s"
            progress.advance(step - self._shown_step, detail=detail)
            self._shown_step = step
        if step % recipe.evaluation.every_steps == 0 or is_last:
            values = self.held_out_loss()
            log.write("held-out", step=step, **values)
            self.reporter.note(f"step {step}: held-out loss {values['loss']:.4f}")
        every_steps, every_s = recipe.checkpoint.every_steps, recipe.checkpoint.every_s
        is_due = time.monotonic() - self._saved_at_s >= every_s
        if is_due or (every_steps and step % every_steps == 0):
            self._save()

    def _errors_of(self, model: torch.nn.Module, batch: TrainingBatch) -> Tensor:
        setup = self.setup
        is_mixed = setup.recipe.precision == "bfloat16"
        with torch.autocast(setup.device.type, torch.bfloat16, enabled=is_mixed):
            return velocity_errors(model, batch, schedule=self._schedule, layout=setup.layout)

    def _save(self) -> None:
        if self._saved_step == self.state.step:
            return
        setup = self.setup
        save_checkpoint(setup.run, self.state, facts=setup.facts, keep=setup.recipe.checkpoint.keep)
        self._saved_step, self._saved_at_s = self.state.step, time.monotonic()

    def _refuse_non_finite(self, loss: float, grad_norm: float, draw: BatchDraw) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        step = self.state.step
        report = self.setup.run / f"diverged-step-{step:08d}.json"
        write_json(
            report,
            {
                "step": step,
                "seed": self.setup.recipe.seed,
                "loss": repr(loss),
                "grad_norm": repr(grad_norm),
                "samples": draw.describe(),
                "timesteps": draw.timesteps_BN.tolist(),
            },
        )
        raise DivergedError(
            f"step {step}: loss {loss}, gradient norm {grad_norm} are not finite; the weights were left as "
            f"they were. Batch and seeds: {report}; lower the learning rate and go on with --resume latest"
        )
