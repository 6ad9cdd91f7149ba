"""The start of a training: random weights, or those of an earlier run or model folder; and the model's sizes.

Owns the random initialisation. An earlier run contributes its averaged weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError, Remedy
from m2d.families.loading import load_transformer
from m2d.families.registry import NEW_MODELS
from m2d.geometry import ModelGeometry, SceneGeometry
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel
from m2d.model.settings import ModelSettings
from m2d.training.recipe import TrainingRecipe, TransformerRecipe, VideoRecipe
from m2d.training.state import FOLDER as CHECKPOINTS
from m2d.training.state import find_checkpoint, load_average, read_facts

# Layers that start at zero, so that every block starts as the identity and the output is zero: adaLN-Zero,
# Peebles and Xie, arXiv 2212.09748, section 3.2.
_ZERO_LAYERS = ("norm1.linear", "norm2.linear", "norm_out.linear", "proj_out")


class Start(NamedTuple):
    """A transformer's config and weights; None for random weights."""

    config: dict[str, Any]
    weights: dict[str, Tensor] | None


def transformer_config(
    sizes: TransformerRecipe,
    *,
    video: VideoRecipe,
    latent_channels: int,
    text_width: int,
    compression: tuple[int, int],
) -> dict[str, Any]:
    """Return the diffusers config of a transformer of the recipe's sizes that fits VAE and text encoder.

    Args:
        compression: Pixels per latent along height and width, and frames per latent frame.
    """
    spatial, temporal = compression
    return {
        "num_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_attention_heads,
        "attention_head_dim": sizes.attention_head_dim,
        "patch_size": sizes.patch_size,
        "time_embed_dim": sizes.time_embed_dim,
        "max_text_seq_length": sizes.max_text_tokens,
        "text_embed_dim": text_width,
        "in_channels": latent_channels,
        "out_channels": latent_channels,
        "sample_height": video.height // spatial,
        "sample_width": video.width // spatial,
        "sample_frames": video.num_frames,
        "temporal_compression_ratio": temporal,
        "use_rotary_positional_embeddings": True,
    }


def model_geometry(
    recipe: TrainingRecipe, config: Mapping[str, Any], *, compression: tuple[int, int]
) -> ModelGeometry:
    """Return the sizes of the model that a recipe trains; the scenes' default sizes are the recipe's.

    Args:
        recipe: The training recipe.
        config: The transformer's config.
        compression: Pixels per latent along height and width, and frames per latent frame.
    """
    video = recipe.video
    settings = ModelSettings(
        num_scenes=recipe.num_scenes,
        default_num_frames=video.num_frames,
        default_height=video.height,
        default_width=video.width,
        default_fps=video.fps,
    )
    return NEW_MODELS.geometry_of(config, settings, compression=compression)


def scene_geometry(
    recipe: TrainingRecipe, config: Mapping[str, Any], *, compression: tuple[int, int]
) -> SceneGeometry:
    """Return the sizes of one scene of the recipe; arguments as in `model_geometry`.

    Raises:
        InputError: The model cannot make scenes of this size.
    """
    video = recipe.video
    geometry = model_geometry(recipe, config, compression=compression)
    return geometry.scene(num_frames=video.num_frames, height=video.height, width=video.width)


def training_layout(recipe: TrainingRecipe, config: Mapping[str, Any], scene: SceneGeometry) -> SceneLayout:
    """Return the token layout of every training sample."""
    return SceneLayout.build(
        recipe.mask,
        text_tokens=[int(config["max_text_seq_length"])] * recipe.num_scenes,
        latent_frames=[scene.num_latent_frames] * recipe.num_scenes,
        tokens_per_frame=scene.tokens_per_frame,
    )


def read_start(folder: Path) -> Start:
    """Read the transformer that a training starts from.

    Args:
        folder: A run folder, whose newest checkpoint that verifies is used, or a model folder.

    Raises:
        CheckpointError: There is no transformer, or it cannot be read.
    """
    if (folder / CHECKPOINTS).is_dir():
        found = find_checkpoint(folder).path
        if found is None:
            raise CheckpointError(f"init: {folder} has no checkpoint that verifies; train that run first")
        facts = read_facts(found)
        if facts.get("recipe", {}).get("lora") is not None:
            raise CheckpointError(
                f"init: {folder} is a training of adapters, whose checkpoints hold adapters only; give its "
                f"model folder, {folder / 'model'}"
            )
        config = facts.get("transformer")
        if config is None:
            raise CheckpointError(
                f"init: {found} is no transformer's training", remedy=Remedy.GIVE_TRAINED_RUN
            )
        return Start(config, load_average(found))
    if not (folder / "transformer").is_dir():
        raise CheckpointError(
            f"init: {folder} is neither a run folder nor a model folder with a transformer; "
            "use random, a run folder or a model folder"
        )
    model = load_transformer(folder, device="cpu", dtype=torch.float32)
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    return Start(config, model.state_dict())


def build_transformer(start: Start, *, seed: int) -> SceneModel:
    """Build the transformer in float32.

    Raises:
        CheckpointError: The weights do not fit the config.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NEW_MODELS.build_transformer(**start.config)
    if start.weights is None:
        _zero(model)
        return model
    try:
        model.load_state_dict(start.weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"init: the transformer's weights do not fit its config: {reason}") from error
    return model


def _zero(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name.endswith(_ZERO_LAYERS):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
