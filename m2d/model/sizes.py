"""What a model folder says about sizes: its geometry from diffusers' configs, the rest from `m2d.json`.

Owns the cross-checks between components; folders mixed from different models are refused. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError
from m2d.geometry import GeometryError, ModelGeometry
from m2d.masks import LayoutError, rule_of
from m2d.model.components import read_config
from m2d.model.folder import first_few, read_json

SETTINGS_FILE = "m2d.json"
# What a folder without `m2d.json` is taken for: CogVideoX as Mask2DiT trained it.
_DEFAULT_SCENES = 3
_DEFAULT_MASK = "mask2dit"
_DEFAULT_FPS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """The content of `m2d.json`: what diffusers' configs do not say.

    Attributes:
        num_scenes: Scenes of the stories the model was trained on.
        default_num_frames: Pixel frames per scene.
        default_height: Pixels.
        default_width: Pixels.
        default_fps: Frames per second.
        world: `puppet` for a model of the puppet theatre; None for any other.
        mask: The attention mask it was trained with.
    """

    num_scenes: int
    default_num_frames: int
    default_height: int
    default_width: int
    default_fps: int
    world: str | None = None
    mask: str = _DEFAULT_MASK


def read_settings(path: Path) -> ModelSettings:
    """Read `m2d.json`, or take CogVideoX's defaults when there is none.

    Raises:
        CheckpointError: The file is not JSON, or has unknown, missing or wrong entries.
    """
    if not (path / SETTINGS_FILE).exists():
        return _cogvideox_settings(path)
    entries, place = read_json(path, SETTINGS_FILE), path / SETTINGS_FILE
    known = {field.name for field in fields(ModelSettings)}
    if entries.keys() - known:
        raise CheckpointError(
            f"{place}: unknown {first_few(entries.keys() - known)}; allowed: {first_few(known, limit=9)}"
        )
    numbers = {name: _whole_number(entries, name, place=place) for name in known - {"world", "mask"}}
    if entries.get("world") not in (None, "puppet"):
        raise CheckpointError(f"{place}: world: {entries['world']!r} is unknown; allowed: 'puppet' or null")
    mask = entries.get("mask", _DEFAULT_MASK)
    _check_mask(mask, place=place)
    return ModelSettings(world=entries.get("world"), mask=mask, **numbers)


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
        ("in_channels", vae, "vae", "latent_channels"),
        ("out_channels", vae, "vae", "latent_channels"),
        ("temporal_compression_ratio", vae, "vae", "temporal_compression_ratio"),
        ("text_embed_dim", text_encoder, "text_encoder", "d_model"),
    )
    for key, other, name, other_key in pairs:
        ours = _whole_number(transformer, key, place=place)
        theirs = _whole_number(other, other_key, place=path / name / "config.json")
        if ours != theirs:
            raise CheckpointError(
                f"{place}: {key} is {ours}, but {name} has {other_key} {theirs}; get both from one model"
            )
    geometry = ModelGeometry(
        spatial_compression=spatial_compression_of(path),
        temporal_compression=_whole_number(
            vae, "temporal_compression_ratio", place=path / "vae" / "config.json"
        ),
        patch_size=_whole_number(transformer, "patch_size", place=place),
        latent_channels=_whole_number(transformer, "in_channels", place=place),
        max_text_tokens=_whole_number(transformer, "max_text_seq_length", place=place),
        default_height=settings.default_height,
        default_width=settings.default_width,
        default_num_frames=settings.default_num_frames,
        default_fps=settings.default_fps,
        num_scenes=settings.num_scenes,
    )
    _check_defaults(path, geometry)
    return geometry


def _cogvideox_settings(path: Path) -> ModelSettings:
    transformer, place = read_config(path, "transformer"), path / "transformer" / "config.json"
    scale = spatial_compression_of(path)
    return ModelSettings(
        num_scenes=_DEFAULT_SCENES,
        default_num_frames=_whole_number(transformer, "sample_frames", place=place),
        default_height=_whole_number(transformer, "sample_height", place=place) * scale,
        default_width=_whole_number(transformer, "sample_width", place=place) * scale,
        default_fps=_DEFAULT_FPS,
    )


def _check_mask(mask: object, *, place: Path) -> None:
    try:
        rule_of(str(mask))
    except LayoutError as error:
        raise CheckpointError(f"{place}: {error}") from error


def _check_defaults(path: Path, geometry: ModelGeometry) -> None:
    try:
        geometry.scene(
            num_frames=geometry.default_num_frames,
            height=geometry.default_height,
            width=geometry.default_width,
        )
    except GeometryError as error:
        raise CheckpointError(f"{path}: the model cannot make its own default size: {error}") from error


def spatial_compression_of(path: Path) -> int:
    """Pixels per latent along height and width, from a model folder's codec.

    Raises:
        CheckpointError: Its config does not say.
    """
    channels = read_config(path, "vae").get("block_out_channels")
    if not isinstance(channels, list) or not channels:
        raise CheckpointError(
            f"{path / 'vae' / 'config.json'}: block_out_channels: {channels!r} is not a list of sizes"
        )
    return int(2 ** (len(channels) - 1))


def _whole_number(config: Mapping[str, Any], key: str, *, place: Path) -> int:
    value = config.get(key)
    # A ratio may be stored as 4.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        found = "missing" if key not in config else f"{value!r}"
        raise CheckpointError(f"{place}: {key}: {found}; it must be a whole number from 1")
    return value
