"""Parts of a model, loaded by its family. Importing this module imports no torch."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d.families.family import ModelFamily
from m2d.families.places import OpenedFolder
from m2d.families.registry import family_of
from m2d.families.source import ModelSource, resolve_model
from m2d.model import components
from m2d.model.components import COMPONENTS
from m2d.model.lora_file import LoraUse
from m2d.model.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    import torch

    from m2d.families.family import SceneVae, TextEncoder
    from m2d.model.scene_model import SceneModel

# accelerate's `init_empty_weights` patches torch.nn.Module for every thread: what another thread builds
# meanwhile would be without storage, too.
_BUILDING = threading.Lock()


def load_transformer(
    source: ModelSource | Path,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    loras: Sequence[LoraUse] = (),
) -> SceneModel:
    """Load the diffusion transformer.

    Args:
        source: A resolved model, or a folder of which only this component is needed.
        dtype: What it computes in, whatever it is stored in.
        loras: Those of all scenes are fused into the weights, those of single scenes put beside them.

    Raises:
        CheckpointError: The config describes no model m2d can run, or the weights are not that model's.
        InputError: A LoRA of single scenes adapts a layer where that is impossible.
    """
    family, path = _found(source, "transformer")
    with _BUILDING:
        model: SceneModel = family.load_transformer(path, device=device, dtype=dtype)
    if loras:
        from m2d.model.lora_weights import fuse_loras
        from m2d.model.scene_lora import add_scene_loras

        fuse_loras(model, [use for use in loras if use.scenes is None])
        add_scene_loras(model, [use for use in loras if use.scenes is not None])
    return model


def load_vae(source: ModelSource | Path, *, device: str | torch.device, dtype: torch.dtype) -> SceneVae:
    """Load the VAE; see `load_transformer`."""
    family, path = _found(source, "vae")
    with _BUILDING:
        vae: SceneVae = family.load_vae(path, device=device, dtype=dtype)
    return vae


def load_text(
    source: ModelSource | Path,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    max_tokens: int | None = None,
) -> TextEncoder:
    """Load tokenizer and text encoder; see `load_transformer`.

    Args:
        source: A resolved model, or a folder without a transformer: then `max_tokens` must be given.
        max_tokens: Tokens that every prompt is padded to; None: as many as the model was made for.
    """
    family, path = _found(source, "text_encoder")
    tokenizer = load_tokenizer(source, max_tokens=max_tokens)
    with _BUILDING:
        return family.load_text(path, tokenizer, device=device, dtype=dtype)


def load_tokenizer(source: ModelSource | Path, *, max_tokens: int | None = None) -> PromptTokenizer:
    """Load the tokenizer alone: no torch, no weights. See `load_text`."""
    family, path = _found(source, "tokenizer")
    if max_tokens is None:
        model = source if isinstance(source, ModelSource) else resolve_model(str(source))
        max_tokens = model.geometry.max_text_tokens
    return family.load_tokenizer(path, max_tokens)


def load_scheduler(source: ModelSource | Path, name: str | None = None) -> Any:
    """Build a scheduler that steps through the noise levels the model was trained with.

    Args:
        name: A name of `m2d.diffusion.schedulers.SCHEDULERS`; None takes the folder's own class.

    Raises:
        CheckpointError: The config is missing or names a class that is not supported.
        SchedulerError: A setting under which the result would be wrong.
    """
    family, path = _found(source, "scheduler")
    return family.scheduler(path, name)


def check_parts(source: ModelSource | Path, names: Iterable[str] = COMPONENTS) -> None:
    """Compare every tensor of a model's parts with the configs, from headers alone, before one is loaded.

    Raises:
        CheckpointError: A tensor is missing, of the wrong shape or not of this model, or a config is wrong.
    """
    opened, family = (
        (source.opened, source.family)
        if isinstance(source, ModelSource)
        else (OpenedFolder(path=source), family_of(source))
    )
    with _BUILDING, opened.naming_places():
        family.check_parts(opened.path, names)


def check_components(path: Path, names: Iterable[str]) -> None:
    """Check parts of a model folder and compare their tensors with their configs, from headers alone.

    Raises:
        CheckpointError: As `m2d.model.components.check_components` and `ModelFamily.check_shapes`.
    """
    family, names = family_of(path), tuple(names)
    components.check_components(path, names, family.classes)
    family.check_shapes(path, names)


def _found(source: ModelSource | Path, name: str) -> tuple[ModelFamily, Path]:
    """Return the family and the folder of a model, or of a folder that has one component at least."""
    if isinstance(source, ModelSource):
        return source.family, source.path
    return family_of(source, name), source
