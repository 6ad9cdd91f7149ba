"""One training step: this process's part of the batch, forward, backward, and the update of the weights.

Owns the order within a step, and rejects losses and gradients that are not finite before they reach the
weights. `trainer` decides when steps happen.
"""

# B batch, N scenes

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2d.diffusion.noise import generator
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import M2DError, Remedy
from m2d.files import write_json
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel
from m2d.training.batches import BatchesAhead, BatchMaker, make_sampler
from m2d.training.cache import StoryLatents
from m2d.training.log import LossMeter
from m2d.training.objective import TrainingBatch, masked_loss, velocity_errors
from m2d.training.optim import learning_rate_scale
from m2d.training.processes import ALONE, Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.sampling import BatchDraw
from m2d.training.sharding import BLOCKS, without_sync
from m2d.training.state import TrainState


class DivergedError(M2DError):
    """The loss or the gradient was not finite; the weights are those before the step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingSetup:
    """Everything of a run that training does not change.

    Attributes:
        stories: Encoded stories, held-out ones included.
        schedule: Noise levels of the model folder's scheduler.
        layouts: The layout of samples by the latent frames, rows and columns of a scene.
        run: The run folder.
        facts: Facts stored in checkpoints, for a resume to compare.
    """

    recipe: TrainingRecipe
    stories: StoryLatents
    schedule: VelocitySchedule
    layouts: Mapping[tuple[int, int, int], SceneLayout]
    run: Path
    facts: Mapping[str, Any]
    processes: Processes = ALONE

    def layout_of(self, batch: TrainingBatch) -> SceneLayout:
        """Return the layout of a batch's samples."""
        _, num_frames, _, height, width = batch.latents_BFCHW.shape
        return self.layouts[num_frames // self.recipe.num_scenes, height, width]


class StepFigures(NamedTuple):
    """What a step measured of itself.

    Attributes:
        loss: Of the whole batch.
        grad_norm: Norm of its gradient.
        data_s: Seconds spent on the batch.
        layout: Layout of its samples.
        heads_loss: Loss of `objective.unprompted_weight`, without the weight; None without it.
    """

    loss: float
    grad_norm: float
    data_s: float
    layout: SceneLayout
    heads_loss: float | None = None


class Stepper:
    """Runs training steps of one model."""

    def __init__(self, setup: TrainingSetup, state: TrainState) -> None:
        """Prepare the model as the recipe says: gradient checkpointing, compilation, several processes.

        Raises: as `TrainingRecipe.microbatch`.
        """
        recipe, processes = setup.recipe, setup.processes
        self._setup, self._state = setup, state
        self._schedule = setup.schedule.to(processes.device)
        size, first = recipe.microbatch(processes.count), processes.index * recipe.accumulate
        # This process's places of the batch, one slice per microbatch.
        self._parts = [
            slice(part * size, (part + 1) * size) for part in range(first, first + recipe.accumulate)
        ]
        self._sampler = make_sampler(
            recipe, setup.stories, num_timesteps=setup.schedule.num_timesteps, held_out=False
        )
        self._batches = BatchesAhead(
            BatchMaker(
                stories=setup.stories, seed=recipe.seed, purpose="training noise", device=processes.device
            )
        )
        if recipe.gradient_checkpointing:
            assert isinstance(state.model, SceneModel)
            state.model.enable_gradient_checkpointing()
        if recipe.compile:
            # Compiled in place: parameter names, and with them checkpoints, stay the same.
            for block in state.model.get_submodule(BLOCKS).children():
                if state.heads is None or block is not state.heads.block:
                    block.compile()
        self._has_dropout = any(isinstance(part, nn.Dropout) and part.p > 0 for part in state.model.modules())
        self._model = state.optimizer.attach(state.model, processes)

    def step(self, meter: LossMeter) -> StepFigures:
        """Update the weights once.

        Args:
            meter: Receives the errors of this process's samples.

        Raises:
            DivergedError: The loss or the gradient was not finite; the weights are unchanged.
        """
        state, recipe = self._state, self._setup.recipe
        draw = self._sampler.draw(state.step)
        figures = self._add_gradients(draw, meter)
        scale = learning_rate_scale(recipe.schedule, step=state.step, num_steps=recipe.steps)
        grad_norm = state.optimizer.step(rate_scale=scale) if math.isfinite(figures.loss) else math.nan
        self._refuse_non_finite(figures.loss, grad_norm, draw)
        if state.heads is not None:
            state.heads.optimizer.step(rate_scale=scale)
        state.average.update(step=state.step)
        state.step += 1
        return figures._replace(grad_norm=grad_norm)

    def errors_of(self, model: nn.Module, batch: TrainingBatch, *, scene_guidance: float = 0.0) -> Tensor:
        """Return the errors (B, N) of a model in the recipe's precision."""
        is_mixed = self._setup.recipe.precision == "bfloat16"
        with torch.autocast(self._setup.processes.device.type, torch.bfloat16, enabled=is_mixed):
            layout = self._setup.layout_of(batch)
            return velocity_errors(
                model, batch, schedule=self._schedule, layout=layout, scene_guidance=scene_guidance
            )

    def _add_gradients(self, draw: BatchDraw, meter: LossMeter) -> StepFigures:
        """Compute this process's microbatches; the gradient's norm is not known yet."""
        processes, heads = self._setup.processes, self._state.heads
        objective = self._setup.recipe.objective
        num_targets = draw.is_target_BN.sum()
        data_s, losses, heads_loss = 0.0, [], 0.0
        for places in self._parts:
            started_s = time.perf_counter()
            batch = self._batches.make(draw.part(places), step=self._state.step, first=places.start)
            is_last = places is self._parts[-1]
            if is_last:
                # To be prepared during this step.
                next_step, first = self._state.step + 1, self._parts[0]
                upcoming = self._sampler.draw(next_step).part(first)
                self._batches.expect(upcoming, step=next_step, first=first.start)
            data_s += time.perf_counter() - started_s
            with self._seeded_dropout(places), nullcontext() if is_last else without_sync(self._model):
                errors_BN = self.errors_of(self._model, batch, scene_guidance=objective.scene_guidance)
                loss = masked_loss(errors_BN, batch.is_target_BN, num_targets=num_targets)
                losses.append(loss.detach())
                if heads is not None:
                    read_BN = heads.errors(draw.part(places).stories_BN)
                    read = masked_loss(read_BN, batch.is_target_BN, num_targets=num_targets)
                    loss = loss + objective.unprompted_weight * read
                    heads_loss += float(read.detach())
                # Gradients are averaged over the processes, but the parts of the loss must be summed.
                self._state.optimizer.backward(loss * processes.count)
            meter.add(errors_BN, batch)
        whole = float(processes.sum(torch.stack(losses).sum()))
        return StepFigures(
            loss=whole,
            grad_norm=math.nan,
            data_s=data_s,
            layout=self._setup.layout_of(batch),
            heads_loss=None if heads is None else heads_loss,
        )

    @contextmanager
    def _seeded_dropout(self, places: slice) -> Iterator[None]:
        """Make the random draws of modules depend on (seed, step, place in the batch) as well."""
        if not self._has_dropout:
            yield
            return
        device, seed = self._setup.processes.device, self._setup.recipe.seed
        draws = generator(seed, purpose="dropout", step=self._state.step, scene=places.start)
        # Dropout layers use only torch's global generators.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(draws.initial_seed())
            yield

    def _refuse_non_finite(self, loss: float, grad_norm: float, draw: BatchDraw) -> None:
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        step, setup = self._state.step, self._setup
        report = setup.run / f"diverged-step-{step:08d}.json"
        if setup.processes.is_main:
            write_json(
                report,
                {
                    "step": step,
                    "seed": setup.recipe.seed,
                    "loss": repr(loss),
                    "grad_norm": repr(grad_norm),
                    "samples": draw.describe(),
                    "timesteps": draw.timesteps_BN.tolist(),
                },
            )
        raise DivergedError(
            f"step {step}: loss {loss}, gradient norm {grad_norm} are not finite; the weights are "
            f"unchanged. Batch and seeds: {report}; lower the learning rate",
            remedy=Remedy.RESUME_TRAINING,
        )
