"""What a model folder says about sizes: its geometry from diffusers' configs, the rest from `m2d.json`.

Owns the cross-checks between components; folders mixed from different models are refused. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError
from m2d.families.cogvideox.known_sizes import KNOWN_MODELS
from m2d.geometry import GeometryError, ModelGeometry
from m2d.model.components import read_config
from m2d.model.settings import DEFAULT_SCENES, ModelSettings, whole_number

# What a folder without `m2d.json` is taken for: CogVideoX as Mask2DiT trained it.
_DEFAULT_FPS = 8
_V1_5 = KNOWN_MODELS["cogvideox1.5-5b"]


def read_geometry(path: Path, settings: ModelSettings) -> ModelGeometry:
    """Derive the geometry of a model folder from its configs.

    Raises:
        CheckpointError: A number is missing or wrong, components contradict each other, or the model cannot
            make its own default size.
    """
    transformer, vae = read_config(path, "transformer"), read_config(path, "vae")
    text_encoder = read_config(path, "text_encoder")
    place = path / "transformer" / "config.json"
    pairs = (
        ("out_channels", vae, "vae", "latent_channels"),
        ("temporal_compression_ratio", vae, "vae", "temporal_compression_ratio"),
        ("text_embed_dim", text_encoder, "text_encoder", "d_model"),
    )
    for key, other, name, other_key in pairs:
        ours = whole_number(transformer, key, place=place)
        other_place = path / name / "config.json"
        theirs = whole_number(other, other_key, place=other_place)
        if ours != theirs:
            raise CheckpointError(
                f"{place}: {key} is {ours}, but {other_place} has {other_key} {theirs}; get both from one "
                "model"
            )
    compression = compression_of(path)
    for key in ("patch_size", "max_text_seq_length"):
        whole_number(transformer, key, place=place)
    _check_channels(transformer, place=place)
    geometry = geometry_of(transformer, settings, compression=compression)
    _check_defaults(path, geometry)
    return geometry


def geometry_of(
    transformer: Mapping[str, Any], settings: ModelSettings, *, compression: tuple[int, int]
) -> ModelGeometry:
    """Return the sizes of a model."""
    spatial, temporal = compression
    latent_channels, patch_t = int(transformer["out_channels"]), int(transformer.get("patch_size_t") or 1)
    return ModelGeometry(
        spatial_compression=spatial,
        temporal_compression=temporal,
        patch_size=int(transformer["patch_size"]),
        latent_channels=latent_channels,
        image_channels=int(transformer["in_channels"]) - latent_channels,
        temporal_patch_size=patch_t,
        # A model with temporal patches was trained on an odd number of latent frames, as those of 16k+1 are.
        frame_step=1 if patch_t == 1 else 2 * patch_t * temporal,
        is_fixed_size=bool(transformer.get("use_learned_positional_embeddings")),
        max_text_tokens=int(transformer["max_text_seq_length"]),
        default_height=settings.default_height,
        default_width=settings.default_width,
        default_num_frames=settings.default_num_frames,
        default_fps=settings.default_fps,
        num_scenes=settings.num_scenes,
        starts_from_images=settings.starts_from_images,
    )


def default_settings(path: Path) -> ModelSettings:
    """Return what a folder without `m2d.json` is taken for: CogVideoX as Mask2DiT trained it."""
    transformer, place = read_config(path, "transformer"), path / "transformer" / "config.json"
    scale, _ = compression_of(path)
    height, width = (
        whole_number(transformer, key, place=place) * scale for key in ("sample_height", "sample_width")
    )
    fps = _DEFAULT_FPS
    if transformer.get("patch_size_t"):
        fps = _V1_5.fps
        if height >= _V1_5.width <= width:
            # The config holds the size of a square that fits all its pictures.
            height, width = _V1_5.height, _V1_5.width
    return ModelSettings(
        num_scenes=DEFAULT_SCENES,
        default_num_frames=whole_number(transformer, "sample_frames", place=place),
        default_height=height,
        default_width=width,
        default_fps=fps,
    )


def _check_channels(transformer: Mapping[str, Any], *, place: Path) -> None:
    channels, latents = (
        whole_number(transformer, key, place=place) for key in ("in_channels", "out_channels")
    )
    if channels not in (latents, 2 * latents):
        raise CheckpointError(
            f"{place}: in_channels is {channels}; m2d runs models with {latents} (text-to-video) or "
            f"{2 * latents} (image-to-video: the latents of a first frame beside those that are denoised)"
        )


def _check_defaults(path: Path, geometry: ModelGeometry) -> None:
    try:
        geometry.scene(
            num_frames=geometry.default_num_frames,
            height=geometry.default_height,
            width=geometry.default_width,
        )
    except GeometryError as error:
        raise CheckpointError(f"{path}: the model cannot make its own default size: {error}") from error


def compression_of(path: Path) -> tuple[int, int]:
    """Return a VAE's pixels per latent along height and width, and frames per latent frame after the first.

    Raises:
        CheckpointError: Its config does not say.
    """
    config, place = read_config(path, "vae"), path / "vae" / "config.json"
    channels = config.get("block_out_channels")
    if not isinstance(channels, list) or not channels:
        raise CheckpointError(f"{place}: block_out_channels: {channels!r} is not a list of sizes")
    temporal = whole_number(config, "temporal_compression_ratio", place=place)
    return int(2 ** (len(channels) - 1)), temporal
