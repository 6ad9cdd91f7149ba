"""A finished stage as a model folder that everything else of m2d loads.

Owns the folder's assembly: the recipe's frozen parts are copied, the averaged transformer is written.
"""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import __version__ as diffusers_version

from m2d.model.transformer import SceneTransformer
from m2d.training.folder import publish_folder
from m2d.training.frozen import PARTS
from m2d.training.recipe import TrainingRecipe

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


def export_model(model: SceneTransformer, *, recipe: TrainingRecipe, frozen: Path, path: Path) -> None:
    """Publish the model folder `path`, replacing an earlier one.

    Args:
        model: The averaged transformer; it is left as it is.
        recipe: Says the precision and the default sizes.
        frozen: Model folder whose other parts are copied.
        path: The new folder.
    """
    with publish_folder(path, replace=True, with_manifest=False) as part:
        for name in PARTS:
            shutil.copytree(frozen / name, part / name)
        transformer = copy.deepcopy(model).to(device="cpu", dtype=_DTYPES[recipe.export_dtype])
        transformer.save_pretrained(part / "transformer", safe_serialization=True)
        _write(part / "model_index.json", _model_index(part))
        _write(part / "m2d.json", _defaults(recipe))


def _model_index(part: Path) -> dict[str, Any]:
    scheduler = json.loads((part / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((part / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    return {
        "_class_name": "CogVideoXPipeline",
        "_diffusers_version": diffusers_version,
        "scheduler": ["diffusers", scheduler.get("_class_name", "CogVideoXDDIMScheduler")],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", tokenizer.get("tokenizer_class", "PreTrainedTokenizerFast")],
        "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    }


def _defaults(recipe: TrainingRecipe) -> dict[str, Any]:
    return {
        "num_scenes": recipe.num_scenes,
        "default_num_frames": recipe.video.num_frames,
        "default_height": recipe.video.height,
        "default_width": recipe.video.width,
        "default_fps": recipe.video.fps,
        "world": "puppet" if recipe.data.source == "builtin:puppet" else None,
    }


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="ascii")
