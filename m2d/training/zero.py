"""Train with DeepSpeed's ZeRO: shard gradients and moments (stage 2), or weights as well (stage 3).

Owns DeepSpeed's engine, wrapped as the optimizer of a `TrainState`. DeepSpeed clips, accumulates and computes
in the recipe's precision as a single process would; weights and moments stay in float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.training.launcher import refuse_for_deepspeed
from m2d.training.optim import check_moment, make_adamw
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.zero_shares import Spread, cut, is_zero_share, whole_like

_STAGES = {"zero2": 2, "zero3": 3}
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Numbers sent at once; DeepSpeed's default takes 2 GB of every device for gradients alone.
_BUCKET = 50_000_000


def engine_config(recipe: TrainingRecipe, processes: Processes) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe."""
    return {
        # Used for DeepSpeed's counters only.
        "train_micro_batch_size_per_gpu": recipe.microbatch(processes.count),
        "gradient_accumulation_steps": recipe.accumulate,
        "gradient_clipping": recipe.optimizer.grad_clip,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Computes as torch's autocast does. With an empty list of lower-precision modules, weights and
        # gradients are sent in float32.
        "torch_autocast": {
            "enabled": recipe.precision == "bfloat16",
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        # Stage 3 keeps DeepSpeed's own linear layer (`memory_efficient_linear`): torch's keeps whole
        # weights between forward and backward. In bfloat16 it rounds once more, before the bias is added.
        "zero_optimization": {
            "stage": _STAGES[processes.sharing],
            "reduce_bucket_size": _BUCKET,
            "allgather_bucket_size": _BUCKET,
            "stage3_prefetch_bucket_size": _BUCKET,
            # No weight stays whole between steps: the average updates shards, and whole copies go stale.
            "stage3_param_persistence_threshold": 0,
        },
    }


class ZeroOptimizer:
    """AdamW in DeepSpeed's engine, which shards the model in place; implements `Optimizer`."""

    def __init__(
        self, model: nn.Module, average: nn.Module, recipe: TrainingRecipe, *, processes: Processes
    ) -> None:
        """Shard the gradients and moments of `model`; under ZeRO-3 also its weights and the average's.

        Args:
            model: The model in training, on its process's device; under ZeRO-3 on any device.

        Raises: as `refuse_for_deepspeed`.
        """
        refuse_for_deepspeed(recipe, processes.sharing)
        import deepspeed

        config = engine_config(recipe, processes)
        # Kept, because DeepSpeed removes its hooks from the model when the engine is discarded.
        self._average_engine = None
        if processes.sharing == "zero3":
            for each in (average, model):
                deepspeed.zero.Init(module=each, config_dict_or_path=config)
                # Buffers are not sharded.
                each.to(processes.device)
            self._average_engine, *_ = deepspeed.initialize(
                model=average.requires_grad_(False), config=config
            )
        self._named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        adamw = make_adamw(list(self._named.values()), recipe.optimizer)
        self._peak_rate = recipe.optimizer.lr
        self._engine, self._zero, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=config)

    def attach(self, model: nn.Module, processes: Processes) -> nn.Module:  # noqa: ARG002  # the engine has both
        """See `Optimizer.attach`."""
        engine: nn.Module = self._engine
        return engine

    def backward(self, loss: Tensor) -> None:
        """See `Optimizer.backward`; each process keeps its shard of the gradients' average."""
        self._engine.backward(loss, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            # Only counts the microbatch.
            self._engine.step()

    def step(self, *, rate_scale: float) -> float:
        """See `Optimizer.step`; a norm that is not finite is returned as infinite."""
        for group in self._zero.param_groups:
            group["lr"] = self._peak_rate * rate_scale
        self._engine.step()
        if not self._engine.was_step_applied():
            return math.inf
        return float(self._engine.get_global_grad_norm())

    def state_tensors(self) -> dict[str, Tensor | Spread]:
        """See `Optimizer.state_tensors`; the names are those of AdamW in a single process."""
        states = self._zero.optimizer.state
        flats = [flat for flat in self._flat_weights() if states.get(flat)]
        if not flats:
            return {}
        num_steps = states[flats[0]]["step"]
        tensors: dict[str, Tensor | Spread] = {}
        for name, weight in self._named.items():
            tensors[f"{name}/step"] = num_steps
            for part in _MOMENTS:
                tensors[f"{name}/{part}"] = Spread(
                    like=whole_like(weight),
                    gather=functools.partial(_gather_moment, weight, part),
                    put=functools.partial(_put_moment, weight, part),
                )
        return tensors

    def load_state_tensors(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """See `Optimizer.load_state_tensors`."""
        # DeepSpeed updates a copy of the weights' shards and copies it back to the weights.
        self._zero.refresh_fp32_params()
        num_steps: set[float] = set()
        ours: dict[str, Tensor | Spread] = {}
        for key, value in tensors:
            if not ours:
                self._make_state()
                ours = self.state_tensors()
            check_moment(key, value)
            target = ours.get(key)
            if isinstance(target, Spread) and target.like.shape == value.shape:
                target.put(value)
            elif isinstance(target, Tensor) and target.shape == value.shape:
                num_steps.add(float(value))
            else:
                raise CheckpointError(
                    f"optimizer state {key!r} of shape {tuple(value.shape)} fits no weight of this model; "
                    "resume with the recipe that the checkpoint was made with"
                )
        if len(num_steps) > 1:
            raise CheckpointError(
                f"optimizer state: weights moved {sorted(num_steps)} times; DeepSpeed moves all together"
            )
        for flat in self._flat_weights() if num_steps else ():
            self._zero.optimizer.state[flat]["step"].fill_(max(num_steps))

    def _flat_weights(self) -> list[Tensor]:
        """Return the flat tensors that AdamW updates: this process's shards of all weights, concatenated."""
        if self._average_engine is not None:
            return list(self._zero.fp32_partitioned_groups_flat)
        return list(self._zero.single_partition_of_fp32_groups)

    def _make_state(self) -> None:
        """Create the moments that AdamW creates in its first step."""
        for flat in self._flat_weights():
            self._zero.optimizer.state[flat] = {
                "step": torch.zeros((), device=flat.device),
                **{part: torch.zeros_like(flat) for part in _MOMENTS},
            }
        if self._average_engine is None:
            # Stage 2 looks moments up by weight through an index that it builds in the first step.
            self._zero._lazy_init_hp_params_optimizer_state()


def _gather_moment(weight: nn.Parameter, part: str) -> Tensor:
    from deepspeed.utils import safe_get_full_optimizer_state

    moment: Tensor = safe_get_full_optimizer_state(weight, part)
    return moment


def _put_moment(weight: nn.Parameter, part: str, value: Tensor) -> None:
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    if is_zero_share(weight):
        safe_set_local_optimizer_state(weight, cut(value, weight), part)
    else:
        safe_set_full_optimizer_state(weight, value, part)
