"""The state that a training starts with, and the model folder that it leaves.

Owns what moves and what stays (all weights, or adapters on weights that every copy shares), and how one
process gets hold of all averaged weights, however they lie.
"""

from __future__ import annotations

import copy
import hashlib
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from m2d.model.lora import add_lora
from m2d.model.transformer import SceneTransformer
from m2d.training.card import CardFacts
from m2d.training.export import export_model
from m2d.training.log import read_log
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.sharding import place, stored, whole, wholes
from m2d.training.start import Start, build_transformer
from m2d.training.state import TrainState
from m2d.training.step import TrainingSetup
from m2d.training.zero import ZeroOptimizer


def new_state(recipe: TrainingRecipe, start: Start, processes: Processes) -> TrainState:
    """Build the state before the first step, placed where the processes compute.

    Raises:
        CheckpointError: The weights do not fit the config.
        BackendUnavailable: PEFT or bitsandbytes is not installed, or cannot work there; or DeepSpeed
            cannot do what the recipe asks for.
    """
    model = build_transformer(start, seed=recipe.seed)
    precision: torch.dtype = getattr(torch, recipe.precision)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, seed=recipe.seed)
        _keep_frozen_in(model, precision)
    if processes.shares_weights:
        # Shards are each model's own.
        average = copy.deepcopy(model)
        place(average, processes)
        place(model, processes)
    else:
        # Placed before it is copied, so that both go on sharing what does not move.
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
    """Keep the matrices that do not move in `dtype`, in place; autocast would turn them into it anyway."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.requires_grad:
            module.to(dtype)


def _copy_sharing_frozen(model: SceneTransformer) -> SceneTransformer:
    """Return a copy that has weights of its own where they move, and the same ones where they do not."""
    shared = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
    return copy.deepcopy(model, shared)


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over the weights that do not move: what the adapters are adapters of.

    Sharded weights are gathered one at a time, by all processes together.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            digest.update(f"{name} {tuple(weight.shape)}\n".encode())
            values = whole(weight.detach()).cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def publish_model(setup: TrainingSetup, state: TrainState, *, frozen: Path, path: Path) -> str:
    """Publish the averaged weights as a model folder, by one process, from the shares of all.

    Returns:
        Why the model card has no curves, or an empty string.

    Raises:
        OutputError: The disk refused.
    """
    recipe = setup.recipe

    def export(average: SceneTransformer) -> str:
        card = CardFacts(
            facts=setup.facts,
            events=read_log(setup.run),
            step=state.step,
            has_adapters=recipe.lora is not None,
        )
        return export_model(average, recipe=recipe, frozen=frozen, path=path, card=card) or ""

    return use_average(setup, state, export)


def use_average(setup: TrainingSetup, state: TrainState, use: Callable[[SceneTransformer], str]) -> str:
    """Have the main process use the averaged weights, all of them; all processes call this together.

    Args:
        setup: Of the training.
        state: Its state, which stays as it is.
        use: Gets the transformer, ready to run: the averaged model itself or, where weights are sharded, a
            copy in the CPU's memory that is gone afterwards.

    Returns:
        What `use` returned, in every process.
    """
    average = state.average.model
    if not setup.processes.shares_weights:
        assert isinstance(average, SceneTransformer)
        return setup.processes.on_main(lambda: use(average))
    weights = stored(average)
    values = wholes(weights.values())

    def gather_and_use() -> str:
        try:
            whole = _without_weights(setup)
            whole.load_state_dict(dict(zip(weights, values, strict=True)))
            return use(whole.requires_grad_(False).eval())
        finally:
            # The others wait for their shards to be taken, whatever has happened here.
            deque(values, maxlen=0)

    return setup.processes.on_main(gather_and_use, meanwhile=lambda: deque(values, maxlen=0))


def _without_weights(setup: TrainingSetup) -> SceneTransformer:
    """A model that takes the weights of the one in training."""
    model: SceneTransformer = SceneTransformer(**setup.facts["transformer"])
    if setup.recipe.lora is not None:
        add_lora(model, setup.recipe.lora)
    return model
