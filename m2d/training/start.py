"""The start of a training: the model's sizes, its first weights, and the state made of them.

Weights are random, or those of an earlier run (its averaged weights) or model folder. Owns the random
initialisation, and which weights are trained: all, or adapters on frozen weights that the average shares.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from m2d.errors import CheckpointError, Remedy
from m2d.families.loading import load_transformer
from m2d.families.registry import NEW_MODELS
from m2d.geometry import GeometryError, ModelGeometry, SceneGeometry
from m2d.layout import SceneLayout
from m2d.model.components import check_size
from m2d.model.lora import add_lora
from m2d.model.scene_model import SceneModel
from m2d.model.settings import ModelSettings, read_settings
from m2d.recipe.places import FieldsRefused, KeyPath
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe, TransformerRecipe, VideoRecipe
from m2d.training.sharding import place, whole
from m2d.training.state import FOLDER as CHECKPOINTS
from m2d.training.state import TrainState, find_checkpoint, load_average, read_facts
from m2d.training.zero import ZeroOptimizer

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
        **sizes.model_dump(exclude={"max_text_tokens"}),
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


def model_settings(recipe: TrainingRecipe) -> ModelSettings:
    """Return the settings of the model that a recipe trains; scenes have the recipe's sizes by default."""
    return ModelSettings(
        num_scenes=recipe.num_scenes,
        default_num_frames=recipe.video.num_frames,
        default_height=recipe.video.height,
        default_width=recipe.video.width,
        default_fps=recipe.video.fps,
        world=recipe.data.world,
        mask=recipe.mask,
        starts_from_images=recipe.objective.image_probability > 0,
    )


def settings_after(recipe: TrainingRecipe, base: Path) -> ModelSettings:
    """Return `model_settings` with what a training keeps of the folder that it starts from."""
    settings, kept = model_settings(recipe), read_settings(base)
    if kept is None:
        return settings
    starts = settings.starts_from_images or kept.starts_from_images
    return replace(settings, sampling=kept.sampling, starts_from_images=starts)


def model_geometry(
    recipe: TrainingRecipe, config: Mapping[str, Any], *, compression: tuple[int, int]
) -> ModelGeometry:
    """Return the sizes of the model that a recipe trains.

    Args:
        config: The transformer's config.
        compression: Pixels per latent along height and width, and frames per latent frame.
    """
    return NEW_MODELS.geometry_of(config, model_settings(recipe), compression=compression)


def scene_geometries(
    recipe: TrainingRecipe, config: Mapping[str, Any], *, compression: tuple[int, int]
) -> tuple[SceneGeometry, ...]:
    """Return the sizes of one scene for each of the recipe's sizes; arguments as in `model_geometry`.

    Raises:
        FieldsRefused: The model cannot be trained or make scenes of a size, or two sizes have equal latents.
    """
    geometry = model_geometry(recipe, config, compression=compression)
    if geometry.image_channels:
        message = "image-to-video models cannot be trained; use a text-to-video model"
        raise FieldsRefused([(("init",), message)])
    scenes: list[SceneGeometry] = []
    problems: list[tuple[KeyPath, str]] = []
    for number, size in enumerate(recipe.video.sizes):
        of_size: KeyPath = ("video", "buckets", number - 1) if number else ("video",)
        try:
            scenes.append(geometry.scene(num_frames=size.num_frames, height=size.height, width=size.width))
        except GeometryError as error:
            # A line for each field, which it begins with.
            lines = [line.partition(": ") for line in str(error).splitlines()]
            problems += [((*of_size, name), message) for name, _, message in lines]
    if problems:
        raise FieldsRefused(problems)
    if len({latent_size(scene) for scene in scenes}) < len(scenes):
        raise FieldsRefused(
            [(("video", "buckets"), "two sizes are the same for the model; remove one of them")]
        )
    return tuple(scenes)


def latent_size(scene: SceneGeometry) -> tuple[int, int, int]:
    """Return latent frames, rows and columns of one scene."""
    return scene.num_latent_frames, scene.latent_height, scene.latent_width


def training_layout(recipe: TrainingRecipe, config: Mapping[str, Any], scene: SceneGeometry) -> SceneLayout:
    """Return the token layout of every training sample."""
    return SceneLayout.build(
        recipe.mask,
        text_tokens=[int(config["max_text_seq_length"])] * recipe.num_scenes,
        latent_frames=[scene.num_latent_frames] * recipe.num_scenes,
        tokens_per_frame=scene.tokens_per_frame,
        frames_per_token=scene.frames_per_token,
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
        weights = load_average(found)
        num_stored = sum(weight.numel() for weight in weights.values())
        check_size(found, "transformer", config, num_stored=num_stored)
        return Start(config, weights)
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
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name.endswith(_ZERO_LAYERS):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        return model
    try:
        model.load_state_dict(start.weights, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"init: the transformer's weights do not fit its config: {reason}") from error
    return model


def new_state(recipe: TrainingRecipe, start: Start, processes: Processes) -> TrainState:
    """Build the state before the first step, on the devices of the processes.

    Raises: as `build_transformer`, `add_lora`, `make_adamw` and `ZeroOptimizer`.
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
        frozen = {id(weight): weight for weight in model.parameters() if not weight.requires_grad}
        average = copy.deepcopy(model, frozen)
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
