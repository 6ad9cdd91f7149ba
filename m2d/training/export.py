"""A finished stage as a model folder that everything else of m2d loads, published complete or not at all.

Owns which weights and defaults go into it; the folder's form is `m2d.model.save`, its card
`m2d.training.card`.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from m2d.model.lora import merge_lora, save_lora
from m2d.model.save import save_model_folder
from m2d.model.sizes import ModelSettings
from m2d.model.transformer import SceneTransformer
from m2d.training.card import CardFacts, write_card
from m2d.training.folder import publish_folder
from m2d.training.recipe import TrainingRecipe

_DTYPES = {"float16": torch.float16, "float32": torch.float32}


ADAPTERS = "lora"


def export_model(
    model: SceneTransformer, *, recipe: TrainingRecipe, frozen: Path, path: Path, card: CardFacts
) -> str | None:
    """Publish the model folder `path`, replacing an earlier one.

    Args:
        model: The averaged transformer; it is left as it is. Adapters are merged into its weights, and lie
            beside it, too.
        recipe: Says the precision and the default sizes.
        frozen: Model folder whose other parts are copied.
        path: The new folder.
        card: What the model card tells.

    Returns:
        Why the card has no curves; None when it has.

    Raises:
        OutputError: The disk refused.
    """
    settings = ModelSettings(
        num_scenes=recipe.num_scenes,
        default_num_frames=recipe.video.num_frames,
        default_height=recipe.video.height,
        default_width=recipe.video.width,
        default_fps=recipe.video.fps,
        world="puppet" if recipe.data.source == "builtin:puppet" else None,
        mask=recipe.mask,
    )
    with publish_folder(path, replace=True, with_manifest=False) as part:
        if recipe.lora is not None:
            save_lora(model, part / ADAPTERS)
            model = copy.deepcopy(model)
            merge_lora(model)
        save_model_folder(
            part, base=frozen, transformer=model, settings=settings, dtype=_DTYPES[recipe.export_dtype]
        )
        return write_card(part, card)
