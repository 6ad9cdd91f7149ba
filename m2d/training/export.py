"""The averaged weights of a training: how one process gets all of them, and the model folder made of them.

Owns which weights and defaults go into the model folder; `m2d.families.saving` owns the folder's form and
`m2d.training.card` its card.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from m2d.families.registry import NEW_MODELS
from m2d.families.saving import save_model_folder
from m2d.model.lora import add_lora, merge_lora, save_lora
from m2d.model.scene_model import SceneModel
from m2d.training.card import CardFacts, write_card
from m2d.training.folder import publish_folder
from m2d.training.log import read_log
from m2d.training.sharding import stored, wholes
from m2d.training.start import settings_after
from m2d.training.state import TrainState
from m2d.training.step import TrainingSetup

ADAPTERS = "lora"


def publish_model(setup: TrainingSetup, state: TrainState, *, frozen: Path, path: Path) -> str:
    """Publish the averaged weights as the model folder `path`, replacing an earlier one.

    All processes call this together. Adapters are merged into the weights and also saved beside them; the
    state stays unchanged.

    Args:
        frozen: Model folder whose other parts are copied.

    Returns:
        Why the model card has no curves, or an empty string.

    Raises:
        OutputError: The disk refused.
    """
    recipe = setup.recipe

    def write(average: SceneModel) -> str:
        card = CardFacts(
            facts=setup.facts,
            events=read_log(setup.run),
            step=state.step,
            has_adapters=recipe.lora is not None,
        )
        with publish_folder(path, replace=True, with_manifest=False) as part:
            model = average
            if recipe.lora is not None:
                save_lora(average, part / ADAPTERS)
                model = _on_cpu(average)
                merge_lora(model)
            dtype: torch.dtype = getattr(torch, recipe.export_dtype)
            settings = settings_after(recipe, frozen)
            save_model_folder(part, base=frozen, transformer=model, settings=settings, dtype=dtype)
            return write_card(part, card) or ""

    return use_average(setup, state, write)


def _on_cpu(model: SceneModel) -> SceneModel:
    """Return a copy in the CPU's memory: the device has room for one model of the training's size."""
    # Copies that are known already are not made on the device first.
    copies: dict[int, object] = {
        id(weight): nn.Parameter(weight.detach().to("cpu", copy=True), requires_grad=weight.requires_grad)
        for weight in model.parameters()
    }
    copies |= {id(values): values.to("cpu", copy=True) for values in model.buffers()}
    return copy.deepcopy(model, copies)


def use_average(setup: TrainingSetup, state: TrainState, use: Callable[[SceneModel], str]) -> str:
    """Let the main process use all averaged weights; all processes call this together.

    Args:
        use: Receives the transformer, ready to run: the averaged model itself or, where weights are sharded,
            a temporary copy in the CPU's memory.

    Returns:
        What `use` returned, in every process.
    """
    average = state.average.model
    if not setup.processes.shares_weights:
        assert isinstance(average, SceneModel)
        return setup.processes.on_main(lambda: use(average))
    weights = stored(average)
    values = wholes(weights.values())

    def gather_and_use() -> str:
        try:
            whole = NEW_MODELS.build_transformer(**setup.facts["transformer"])
            if setup.recipe.lora is not None:
                add_lora(whole, setup.recipe.lora)
            whole.load_state_dict(dict(zip(weights, values, strict=True)))
            return use(whole.requires_grad_(False).eval())
        finally:
            # The other processes wait until their shards are gathered, even when this one has failed.
            deque(values, maxlen=0)

    return setup.processes.on_main(gather_and_use, meanwhile=lambda: deque(values, maxlen=0))
