"""Finds the LoRAs of a recipe for a model. Imports no torch: headers alone are read."""

from __future__ import annotations

from pathlib import Path

from m2d.errors import CheckpointError, Remedy
from m2d.families.source import ModelSource
from m2d.folders import with_home
from m2d.model.components import COMPONENTS
from m2d.model.folder import find_weights
from m2d.model.lora_file import LoraFile, lora_digest, read_lora
from m2d.recipe.schema import LoraChoice


def find_lora(source: ModelSource, choice: LoraChoice) -> LoraFile:
    """Find a LoRA and make sure that it fits a model, and that it is the recorded one.

    Raises:
        CheckpointError: It is missing, no LoRA for this model, or another file than the recorded one.
    """
    path = with_home(choice.path)
    if choice.sha256 is not None:
        _check_recorded(path, choice.sha256)
    return read_lora(path, layer_shapes(source))


def layer_shapes(source: ModelSource) -> dict[str, tuple[int, ...]]:
    """Return the linear and convolutional layers of a model's transformer, with their weights' shapes."""
    stored = find_weights(source.path, "transformer", COMPONENTS["transformer"].stem)
    return {
        name.removesuffix(".weight"): tensor.shape
        for name, tensor in stored.items()
        if name.endswith(".weight") and len(tensor.shape) in (2, 4)
    }


def _check_recorded(path: Path, sha256: str) -> None:
    try:
        found = lora_digest(path)
    except (OSError, CheckpointError) as error:
        raise CheckpointError(
            f"{path}: missing; the film was made with it (sha256 {sha256[:16]})", remedy=Remedy.GIVE_LORA
        ) from error
    if found != sha256:
        raise CheckpointError(
            f"{path}: has changed: its sha256 begins with {found[:16]}, that of the film's LoRA with "
            f"{sha256[:16]}",
            remedy=Remedy.GIVE_LORA,
        )
