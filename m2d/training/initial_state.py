"""The state that a training starts with: the model, its average and the optimizer, placed on the processes.

Owns which weights are trained (all, or adapters on frozen weights that the average shares).
"""

from __future__ import annotations

import copy
import hashlib

import torch
from torch import nn

from m2d.model.lora import add_lora
from m2d.model.scene_model import SceneModel
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.sharding import place, whole
from m2d.training.start import Start, build_transformer
from m2d.training.state import TrainState
from m2d.training.zero import ZeroOptimizer


def new_state(recipe: TrainingRecipe, start: Start, processes: Processes) -> TrainState:
    """Build the state before the first step, on the devices of the processes.

    Raises:
        CheckpointError: The weights do not fit the config.
        BackendUnavailable: PEFT or bitsandbytes is missing or does not support the device, or DeepSpeed does
            not support the recipe.
    """
    model = build_transformer(start, seed=recipe.seed)
    precision: torch.dtype = getattr(torch, recipe.precision)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, seed=recipe.seed)
        _keep_frozen_in(model, precision)
    if processes.shares_weights:
        # Sharded models cannot share weights.
        average = copy.deepcopy(model)
        place(average, processes)
        place(model, processes)
    else:
        # Copied after placement, so that both models share the frozen weights on the device.
        place(model, processes)
        average = _copy_sharing_frozen(model)
    return TrainState(
        model=model,
        average=AveragedModel(model, decay=recipe.ema_decay, average=average),
        optimizer=ZeroOptimizer(model, average, recipe, processes=processes)
        if processes.uses_deepspeed
        else ModelOptimizer(model, recipe.optimizer, muon_dtype=precision),
    )


def _keep_frozen_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert frozen matrices to `dtype` in place; autocast would convert them at every use."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(dtype)


def _copy_sharing_frozen(model: SceneModel) -> SceneModel:
    """Return a copy with its own trained weights that shares the frozen weights."""
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, shared)


def frozen_digest(model: nn.Module) -> str:
    """Return the SHA-256 (hex) of the frozen weights, which the adapters belong to.

    All processes call this together; sharded weights are gathered one at a time.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            values = whole(weight.detach()).cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
