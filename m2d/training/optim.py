"""Which optimizer moves which weight, how fast, and the running average of the weights.

Owns the split of weights between Muon and AdamW, the learning-rate schedules and the EMA; saves nothing.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.training.muon import Muon
from m2d.training.recipe import OptimizerRecipe, ScheduleRecipe

# Within a block, attention and feed-forward matrices; the adaLN modulations (norm1.linear, norm2.linear) are
# left to AdamW: their rows are shifts, scales and gates, not a map between feature spaces.
_MATRIX_PARTS = (".attn1.", ".ff.")


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """Tell whether a weight of the transformer is an attention or feed-forward matrix of a block."""
    return (
        weight.ndim == 2
        and name.startswith("transformer_blocks.")
        and any(part in name for part in _MATRIX_PARTS)
    )


def learning_rate_scale(schedule: ScheduleRecipe, *, step: int, num_steps: int) -> float:
    """Return the factor on the learning rates at `step` (0-based) of a training of `num_steps`."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    if schedule.name == "constant":
        return 1.0
    floor = schedule.final_fraction
    if schedule.name == "cosine":
        span = max(num_steps - schedule.warmup_steps, 1)
        done = min((step - schedule.warmup_steps) / span, 1.0)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    decay_steps = max(num_steps * schedule.decay_fraction, 1)
    left = max(num_steps - step, 0) / decay_steps
    return floor + (1 - floor) * min(left, 1.0)


class ModelOptimizer:
    """One or two torch optimizers over a model's weights, whose state is named after the weights."""

    def __init__(
        self, model: nn.Module, recipe: OptimizerRecipe, *, muon_dtype: torch.dtype = torch.float32
    ) -> None:
        """Share out the trainable weights of `model` as the recipe says.

        Args:
            muon_dtype: Precision of Muon's orthogonalisation.
        """
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        by_muon = {
            name for name, p in self._named.items() if recipe.name == "muon" and is_block_matrix(name, p)
        }
        adamw = torch.optim.AdamW(
            [p for name, p in self._named.items() if name not in by_muon],
            lr=recipe.lr,
            betas=recipe.betas,
            eps=recipe.eps,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self._optimizers: list[torch.optim.Optimizer] = [adamw]
        if recipe.matrix_lr is not None:
            muon = Muon(
                [self._named[name] for name in self._named if name in by_muon],
                lr=recipe.matrix_lr,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                compute_dtype=muon_dtype,
            )
            self._optimizers.append(muon)
        self._peak_rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self._grad_clip = recipe.grad_clip

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to the recipe's norm; return the norm they had, a scalar."""
        return torch.nn.utils.clip_grad_norm_(self._named.values(), self._grad_clip, foreach=True)

    def step(self, *, rate_scale: float) -> None:
        """Move the weights at `rate_scale` times their peak rates and drop the gradients."""
        for optimizer, peak in zip(self._optimizers, self._peak_rates, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the whole state as tensors named `weight/part`."""
        names: dict[Tensor, str] = {param: name for name, param in self._named.items()}
        return {
            f"{names[param]}/{part}": value
            for optimizer in self._optimizers
            for param, state in optimizer.state.items()
            for part, value in state.items()
        }

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state_tensors` returned.

        Raises:
            CheckpointError: A tensor belongs to no weight of this model.
        """
        owners = {
            param: optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for param in group["params"]
        }
        for key, value in tensors.items():
            name, _, part = key.rpartition("/")
            param = self._named.get(name)
            if param is None or (value.ndim > 0 and value.shape != param.shape):
                raise CheckpointError(
                    f"optimizer state {key!r} of shape {tuple(value.shape)} fits no weight of this model; "
                    "resume with the recipe that the checkpoint was made with"
                )
            owners[param].state[param][part] = value.to(param.device) if value.ndim else value.clone()


class AveragedModel:
    """The exponential moving average of a model's weights, kept in a second model ready to run."""

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Start the average at the model's present weights."""
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay
        self._averages: list[Tensor] = list(self.model.parameters())
        self._weights: list[Tensor] = list(model.parameters())

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Move the average towards the weights after `step` (0-based); early steps weigh more."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, 1 - decay)
