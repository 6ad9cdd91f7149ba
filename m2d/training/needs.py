"""Memory and operations of a training recipe, before anything is downloaded, encoded or trained.

Owns finding the sizes: from model folders where they exist, else from published sizes.
`m2d.training.requirements` does the accounting.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2d.families.opening import BUILTIN_MODELS
from m2d.families.registry import NEW_MODELS, known_model
from m2d.families.source import resolve_model
from m2d.model.components import read_config
from m2d.training.launcher import Sharing, refuse_for_deepspeed
from m2d.training.recipe import TrainingRecipe
from m2d.training.requirements import (
    BFLOAT16_BYTES,
    FLOAT32_BYTES,
    DeviceMemory,
    ModelNeeds,
    Workload,
    measure_needs,
    memory_per_device,
)
from m2d.training.start import scene_geometries, training_layout, transformer_config
from m2d.training.state import FOLDER as CHECKPOINTS
from m2d.training.state import read_facts

STRATEGIES: tuple[Sharing, ...] = ("ddp", "zero2", "zero3", "fsdp2")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingNeeds:
    """Requirements of a training: those of the model for one micro-batch, and the memory of each device.

    Of several sizes of scenes they are those of the largest.

    Attributes:
        origin: Where the sizes come from.
        microbatch: Samples that one device computes at once.
        text_encoder_bytes: Weights of the text encoder, in the recipe's precision.
        vae_bytes: Weights of the VAE, in float32.
    """

    recipe: TrainingRecipe
    origin: str
    num_devices: int
    strategy: str
    microbatch: int
    model: ModelNeeds
    memory: DeviceMemory
    text_encoder_bytes: int
    vae_bytes: int

    @property
    def encoding_bytes(self) -> int:
        """Weights on each device while clips and prompts are encoded, before the transformer is there."""
        return self.text_encoder_bytes + self.vae_bytes

    @property
    def export_bytes(self) -> int:
        """The CPU's memory for the export at the end: weights as stored, and those with merged adapters."""
        stored = self.model.num_parameters * dtype_bytes(self.recipe.export_dtype)
        if self.recipe.lora is None:
            return stored
        return stored + self.model.num_parameters * dtype_bytes(self.recipe.precision)

    @property
    def microbatches_per_step(self) -> int:
        """Micro-batches of a step on all devices together."""
        return self.recipe.batch_size // self.microbatch

    @property
    def tokens_per_step(self) -> int:
        """Text and video tokens of a step."""
        return self.model.tokens * self.microbatches_per_step

    @property
    def flops_per_step(self) -> int:
        """Operations of a step, forward and backward, without recomputation."""
        return self.model.flops * self.microbatches_per_step


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    config: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    vae: Mapping[str, Any]
    compression: tuple[int, int]
    origin: str


def training_needs(
    recipe: TrainingRecipe, *, num_devices: int = 1, strategy: Sharing = "ddp"
) -> TrainingNeeds:
    """Work out what a training needs on `num_devices` devices that share it by `strategy`.

    Raises:
        BackendUnavailable: DeepSpeed cannot do what the recipe asks for.
        InputError: The batch does not divide over the devices, or the model cannot make scenes of this size.
        CheckpointError: Neither a model folder nor a published model.
    """
    if num_devices > 1:
        refuse_for_deepspeed(recipe, strategy)
    microbatch = recipe.microbatch(num_devices)
    sizes = _sizes(recipe)
    scenes = scene_geometries(recipe, sizes.config, compression=sizes.compression)
    scene = max(scenes, key=lambda each: each.num_video_tokens)
    work = Workload(
        config=sizes.config,
        layout=training_layout(recipe, sizes.config, scene),
        latent_shape=(int(sizes.config["in_channels"]), scene.latent_height, scene.latent_width),
        batch_size=microbatch,
        is_mixed=recipe.precision == "bfloat16",
        lora=recipe.lora,
    )
    needs = measure_needs(work)
    is_half = recipe.lora is not None and work.is_mixed
    return TrainingNeeds(
        recipe=recipe,
        origin=sizes.origin,
        num_devices=num_devices,
        strategy=strategy,
        microbatch=microbatch,
        model=needs,
        text_encoder_bytes=_weights(sizes.text_encoder, "text_encoder", dtype_bytes(recipe.precision)),
        vae_bytes=_weights(sizes.vae, "vae", FLOAT32_BYTES),
        memory=memory_per_device(
            needs,
            optimizer=recipe.optimizer.name,
            strategy=strategy,
            num_devices=num_devices,
            is_checkpointed=recipe.gradient_checkpointing,
            frozen_bytes_per_weight=BFLOAT16_BYTES if is_half else FLOAT32_BYTES,
        ),
    )


def dtype_bytes(name: str) -> int:
    """Return the size of a number of a data type."""
    return FLOAT32_BYTES if name == "float32" else BFLOAT16_BYTES


def _weights(config: Mapping[str, Any], part: str, bytes_per_weight: int) -> int:
    module = NEW_MODELS.empty_part(part, config)
    return bytes_per_weight * sum(weight.numel() for weight in module.parameters())


def _sizes(recipe: TrainingRecipe) -> _Sizes:
    """Find the transformer's sizes: those of `init`, or of `model` if `init` does not exist yet."""
    if recipe.init == "random":
        return _sizes_of(recipe.model, recipe)
    checkpoints = sorted((Path(recipe.init) / CHECKPOINTS).glob("step-*"))
    if checkpoints:
        sizes = _sizes_of(recipe.model, recipe)
        config = read_facts(checkpoints[-1]).get("transformer", sizes.config)
        return replace(sizes, config=config, origin=f"run folder {recipe.init}")
    if (
        recipe.init not in BUILTIN_MODELS
        and not Path(recipe.init).is_dir()
        and known_model(recipe.init) is None
    ):
        sizes = _sizes_of(recipe.model, recipe)
        return replace(sizes, origin=f"{sizes.origin}; {recipe.init}, where it starts, is not there yet")
    return _sizes_of(recipe.init, recipe)


def _sizes_of(name: str, recipe: TrainingRecipe) -> _Sizes:
    published = known_model(name)
    if name not in BUILTIN_MODELS and not Path(name).is_dir() and published is not None:
        return _Sizes(
            config=published.transformer,
            text_encoder=published.text_encoder,
            vae=published.vae,
            compression=(published.spatial_compression, published.temporal_compression),
            origin=f"published sizes of {name}, which is not on this machine",
        )
    source = resolve_model(name)
    geometry = source.geometry
    compression = (geometry.spatial_compression, geometry.temporal_compression)
    config = {
        key: value
        for key, value in read_config(source.path, "transformer").items()
        if not key.startswith("_")
    }
    if recipe.transformer is not None:
        config = transformer_config(
            recipe.transformer,
            video=recipe.video,
            latent_channels=geometry.latent_channels,
            text_width=int(config["text_embed_dim"]),
            compression=compression,
        )
    text_encoder, vae = (read_config(source.path, part) for part in ("text_encoder", "vae"))
    return _Sizes(
        config=config,
        text_encoder=text_encoder,
        vae=vae,
        compression=compression,
        origin=f"model folder {name}",
    )
