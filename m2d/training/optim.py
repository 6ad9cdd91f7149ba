"""Optimizers, learning-rate schedules and the running average of the weights.

Owns the split of weights between Muon and AdamW; `state` saves the optimizer's tensors.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from m2d.errors import BackendUnavailable, CheckpointError
from m2d.saved_tensors import misfit
from m2d.training.muon import Muon
from m2d.training.processes import Processes
from m2d.training.recipe_parts import OptimizerRecipe, ScheduleRecipe
from m2d.training.sharding import Stored, like, local, whole, wrap

# Muon updates the attention and feed-forward matrices of a block. AdamW updates the adaLN modulations
# (norm1.linear, norm2.linear): their rows are shifts, scales and gates, not a map between feature spaces.
_MATRIX_PARTS = (".attn1.", ".ff.")
# bitsandbytes stores these per block of 256 numbers of a state (absmax), and the codes of its 8 bits (qmap).
_EIGHT_BIT_PARTS = ("absmax1", "absmax2", "qmap1", "qmap2")
_OF_ADAMW, _OF_MUON = frozenset({"step", "exp_avg", "exp_avg_sq"}), frozenset({"momentum_buffer"})
_MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
_NEVER_NEGATIVE = ("step", "exp_avg_sq", "absmax1", "absmax2")


def is_block_matrix(name: str, weight: Tensor) -> bool:
    """Whether a weight of the transformer is an attention or feed-forward matrix of a block."""
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


def schedule_warnings(schedule: ScheduleRecipe, *, num_steps: int) -> list[str]:
    """Say whether a training of `num_steps` ends before its learning rates reach their values."""
    if schedule.warmup_steps <= num_steps:
        return []
    return [
        f"schedule.warmup_steps: {schedule.warmup_steps}, but steps is {num_steps}: the learning rate ends "
        f"at {num_steps / schedule.warmup_steps:.2g} of optimizer.lr; use fewer warm-up steps"
    ]


class Optimizer(Protocol):
    """Computes gradients and updates weights, whole or sharded."""

    def attach(self, model: nn.Module, processes: Processes) -> nn.Module:
        """Return the module to call instead of the model, which combines the gradients of all processes."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss to those of the step; they are averaged over the processes."""

    def step(self, *, rate_scale: float) -> float:
        """Clip the gradients, update the weights at `rate_scale` times the peak rates, clear the gradients.

        Returns:
            The norm of the gradients; if it is not finite, the weights are unchanged.
        """

    def state_tensors(self) -> Mapping[str, Stored]:
        """Return the whole state as tensors named `weight/part`."""

    def load_state_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Load the output of `state_tensors`, as whole tensors, after the weights are loaded.

        Raises:
            CheckpointError: A tensor belongs to no weight of this model.
        """


class ModelOptimizer:
    """One or two torch optimizers over a model's weights; implements `Optimizer`."""

    def __init__(
        self, model: nn.Module, recipe: OptimizerRecipe, *, muon_dtype: torch.dtype = torch.float32
    ) -> None:
        """Assign the trainable weights of `model` to the recipe's optimizers.

        Args:
            muon_dtype: Precision of Muon's orthogonalisation.
        """
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in self._named.items():
            is_by_muon = recipe.matrix_lr is not None and is_block_matrix(name, weight)
            (matrices if is_by_muon else others).append(weight)
        self._optimizers: list[torch.optim.Optimizer] = [make_adamw(others, recipe)]
        if recipe.matrix_lr is not None:
            muon = Muon(
                matrices,
                lr=recipe.matrix_lr,
                momentum=recipe.momentum,
                weight_decay=recipe.weight_decay,
                compute_dtype=muon_dtype,
            )
            self._optimizers.append(muon)
        self._peak_rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self._grad_clip = recipe.grad_clip

    def attach(self, model: nn.Module, processes: Processes) -> nn.Module:
        """See `Optimizer.attach`."""
        return wrap(model, processes)

    def backward(self, loss: Tensor) -> None:
        """See `Optimizer.backward`."""
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated

    def step(self, *, rate_scale: float) -> float:
        """See `Optimizer.step`."""
        clipped = torch.nn.utils.clip_grad_norm_(self._named.values(), self._grad_clip, foreach=True)
        norm = float(whole(clipped))
        if not math.isfinite(norm):
            return norm
        for optimizer, peak in zip(self._optimizers, self._peak_rates, strict=True):
            optimizer.param_groups[0]["lr"] = peak * rate_scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_tensors(self) -> dict[str, Tensor]:
        """See `Optimizer.state_tensors`; tensors of sharded weights are sharded."""
        names: dict[Tensor, str] = {param: name for name, param in self._named.items()}
        return {
            f"{names[param]}/{part}": torch.as_tensor(value)
            for optimizer in self._optimizers
            for param, state in optimizer.state.items()
            for part, value in state.items()
        }

    def load_state_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """See `Optimizer.load_state_tensors`."""
        owners = {
            param: optimizer
            for optimizer in self._optimizers
            for group in optimizer.param_groups
            for param in group["params"]
        }
        for key, value in tensors:
            name, _, part = key.rpartition("/")
            param = self._named.get(name)
            shape = () if param is None or part == "step" else param.shape
            fits = value.shape == shape or part in _EIGHT_BIT_PARTS
            if param is None or not fits:
                raise CheckpointError(
                    f"optimizer state {key!r} of shape {tuple(value.shape)} fits no weight of this model; "
                    "resume with the recipe that the checkpoint was made with"
                )
            check_moment(key, value)
            state = like(value, param) if value.shape == param.shape else value.to(param.device)
            # bitsandbytes counts steps with a Python int.
            if part == "step":
                is_adamw = isinstance(owners[param], torch.optim.AdamW)
                owners[param].state[param][part] = state.float() if is_adamw else int(value)
            else:
                owners[param].state[param][part] = state
        self._check_parts(owners)

    def _check_parts(self, owners: Mapping[nn.Parameter, torch.optim.Optimizer]) -> None:
        """Check that every weight that has a state has all of what its optimizer keeps."""
        for name, param in self._named.items():
            found, wanted = owners[param].state.get(param, {}).keys(), _parts_of(owners[param])
            if found and wanted and found != wanted:
                wrong = ", ".join(sorted(found ^ wanted))
                raise CheckpointError(f"optimizer state of {name!r}: {wrong[:200]} missing or extra")


def check_moment(key: str, value: Tensor) -> None:
    """Check a tensor of an optimizer's state, named `weight/part`.

    Raises:
        CheckpointError: No optimizer gets there: NaN, infinity, a type that it does not keep, or a number
            below zero where it counts or adds squares.
    """
    part = key.rpartition("/")[2]
    problem = misfit(value, dtype=value.dtype, shape=value.shape)
    if not problem and part in _MOMENTS and value.dtype != torch.float32:
        problem = f"is {str(value.dtype).removeprefix('torch.')}, not float32"
    if not problem and part == "step" and float(value) % 1:
        problem = f"is {value.item()}, no number of steps"
    if not problem and part in _NEVER_NEGATIVE and (value < 0).any():
        problem = "is less than zero"
    if problem:
        raise CheckpointError(f"optimizer state {key[:200]!r} {problem}; resume from another checkpoint")


def _parts_of(optimizer: torch.optim.Optimizer) -> frozenset[str]:
    """Return what an optimizer keeps of a weight; nothing if that depends on the weight."""
    if isinstance(optimizer, torch.optim.AdamW):
        return _OF_ADAMW
    return _OF_MUON if isinstance(optimizer, Muon) else frozenset()


def make_adamw(weights: list[nn.Parameter], recipe: OptimizerRecipe) -> torch.optim.Optimizer:
    """Return AdamW, with 8-bit moments if the recipe says so.

    Raises:
        BackendUnavailable: 8-bit moments are not supported for these weights.
    """
    if recipe.name == "adamw8bit":
        _check_eight_bits(weights)
        from bitsandbytes.optim import AdamW8bit

        kind: Callable[..., torch.optim.Optimizer] = AdamW8bit
    else:
        kind = functools.partial(torch.optim.AdamW, fused=True)
    return kind(weights, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay)


def _check_eight_bits(weights: list[nn.Parameter]) -> None:
    wrong = next((weight.device.type for weight in weights if weight.device.type != "cuda"), None)
    if wrong is not None:
        raise BackendUnavailable(
            f"optimizer.name: adamw8bit needs device: cuda, the weights are on {wrong}; use adamw there"
        )
    if find_spec("bitsandbytes") is None:
        raise BackendUnavailable(
            "optimizer.name: adamw8bit needs bitsandbytes; install it with `pip install 'm2d[train8bit]'`, "
            "or use adamw"
        )
    if any(isinstance(weight, DTensor) for weight in weights):
        raise BackendUnavailable(
            "optimizer.name: adamw8bit cannot move weights that FSDP2 has sharded; use adamw, whose state is "
            "sharded too, or share gradients only (recipes/training/accelerate-ddp.yaml)"
        )


class AveragedModel:
    """The exponential moving average of a model's weights, kept in a second model ready to run."""

    def __init__(self, model: nn.Module, *, decay: float, average: nn.Module | None = None) -> None:
        """Start the average at the model's current weights; frozen weights are not averaged.

        Args:
            decay: Share of the average that stays at each step.
            average: A copy of the model, on the same device and sharded alike; None makes the copy here.
        """
        self.model = (copy.deepcopy(model) if average is None else average).requires_grad_(False).eval()
        self._decay = decay
        moving = {name: param for name, param in model.named_parameters() if param.requires_grad}
        averages = dict(self.model.named_parameters())
        self._weights = list(moving.values())
        self._averages = [averages[name] for name in moving]

    @torch.no_grad()
    def update(self, *, step: int) -> None:
        """Move the average towards the weights after `step` (0-based); early steps weigh more."""
        decay = min(self._decay, (1 + step) / (10 + step))
        averages, weights = ([local(each) for each in some] for some in (self._averages, self._weights))
        torch._foreach_lerp_(averages, weights, 1 - decay)
