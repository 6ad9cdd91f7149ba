"""Models to model folders, in diffusers' layout.

Owns what is written. Each file appears complete or not at all; to publish all at once is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from m2d.families.loading import check_components
from m2d.families.registry import NEW_MODELS
from m2d.files import copy_to_part, publish, write_json
from m2d.model.components import COMPONENTS, INDEX_FILE, TOKENIZER_FILES
from m2d.model.folder import find_file, read_json
from m2d.model.settings import SETTINGS_FILE, ModelSettings
from m2d.reading import open_regular

if TYPE_CHECKING:
    from m2d.model.scene_model import SceneModel


def save_model_folder(
    folder: Path,
    *,
    base: Path,
    transformer: SceneModel,
    settings: ModelSettings,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a model folder: a new transformer beside the other four components of another folder.

    Args:
        folder: Made when it is not there. Files of the same names are replaced.
        dtype: What the transformer is stored in; None: as it is.

    Raises:
        CheckpointError: `base` lacks a component.
    """
    others = ("vae", "text_encoder", "tokenizer", "scheduler")
    check_components(base, others)
    folder.mkdir(parents=True, exist_ok=True)
    write_component(folder, "transformer", transformer, dtype=dtype)
    for name in others:
        copy_component(base, name, folder)
    write_settings(folder, settings)
    write_model_index(folder)


def write_component(folder: Path, name: str, model: nn.Module, *, dtype: torch.dtype | None = None) -> None:
    """Write a model's config and weights into its sub-folder.

    Args:
        name: `transformer`, `vae` or `text_encoder`.
        dtype: What floating-point weights are stored in; None: as they are.
    """
    target, component = folder / name, COMPONENTS[name]
    target.mkdir(parents=True, exist_ok=True)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    weights = {
        key: (tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor)
        .cpu()
        .contiguous()
        for key, tensor in model.state_dict().items()
        if key not in tied
    }
    with publish(target / f"{component.stem}.safetensors", force=True) as part:
        save_file(weights, part, metadata={"format": "pt"})
    write_json(target / component.config, _config_of(model, name))


def copy_component(source: Path, name: str, folder: Path) -> None:
    """Copy a component's own files, and no others, from one model folder to another.

    Raises:
        CheckpointError: `source` lacks the component, or a file of it is a link that leads out of the folder.
    """
    check_components(source, [name])
    (folder / name).mkdir(parents=True, exist_ok=True)
    component = COMPONENTS[name]
    wanted = [component.config, *(TOKENIZER_FILES if name == "tokenizer" else ())]
    if component.stem:
        wanted += sorted(path.name for path in (source / name).glob(f"{component.stem}*.safetensors*"))
    for file in wanted:
        if (source / name / file).exists():
            with (
                open_regular(find_file(source, f"{name}/{file}"), limit_bytes=None) as content,
                publish(folder / name / file, force=True) as part,
            ):
                copy_to_part(part, content)


def write_model_index(folder: Path) -> None:
    """Write `model_index.json` for the components that are there."""
    index: dict[str, Any] = {"_class_name": "CogVideoXPipeline"}
    for name, (library, class_name) in NEW_MODELS.saved_classes.items():
        if not (folder / name).is_dir():
            continue
        if name == "scheduler":
            class_name = read_json(folder, f"{name}/{COMPONENTS[name].config}")["_class_name"]
        index[name] = [library, class_name]
    write_json(folder / INDEX_FILE, index)


def write_settings(folder: Path, settings: ModelSettings) -> None:
    """Write `m2d.json`."""
    sampling = None if settings.sampling is None else settings.sampling.model_dump(mode="json")
    write_json(folder / SETTINGS_FILE, {**asdict(settings), "sampling": sampling})


def _config_of(model: nn.Module, name: str) -> dict[str, Any]:
    """Return a model's config without the keys that say where it came from, such as local paths."""
    kept: Any = model.config
    own: Mapping[str, Any] = kept.to_dict() if name == "text_encoder" else dict(kept)
    config = {key: value for key, value in own.items() if not key.startswith("_")}
    if name == "text_encoder":
        return config | {"architectures": [NEW_MODELS.saved_classes[name][1]]}
    return config | {"_class_name": NEW_MODELS.saved_classes[name][1]}
