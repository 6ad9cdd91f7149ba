"""`m2d.json` in a model folder: what the configs of its components do not say. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from m2d.errors import CheckpointError
from m2d.limits import FASTEST_FPS, LARGEST_SIDE
from m2d.masks import LayoutError, rule_of
from m2d.model.folder import first_few, read_json
from m2d.recipe.explain import explain
from m2d.recipe.places import Places
from m2d.recipe.schema import GuidanceScale, NumSteps, SchedulerName

SETTINGS_FILE = "m2d.json"
DEFAULT_MASK = "mask2dit"
_MOST = {
    "num_scenes": 1000,
    "default_num_frames": 100_000,
    "default_height": LARGEST_SIDE,
    "default_width": LARGEST_SIDE,
    "default_fps": FASTEST_FPS,
}


class SamplingDefaults(BaseModel):
    """How a model samples where a recipe does not say; fields as in `m2d.recipe.schema.Sampling`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    num_inference_steps: NumSteps
    guidance_scale: GuidanceScale
    scheduler: SchedulerName | None = None
    dynamic_guidance: bool = False


PUPPET_SAMPLING = SamplingDefaults(num_inference_steps=25, guidance_scale=2.0)
"""Defaults of the models of the puppet theatre."""


DEFAULT_SCENES = 3
"""Scenes that a model without `m2d.json` makes together: as many as Mask2DiT was trained on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """The content of `m2d.json`: what diffusers' configs do not say.

    Attributes:
        sampling: None selects the defaults of the model's family.
        world: `puppet` for a model of the puppet theatre; None for any other.
        mask: The attention mask it was trained with.
        starts_from_images: Whether a text-to-video model starts a scene from a picture.
    """

    num_scenes: int
    default_num_frames: int
    default_height: int
    default_width: int
    default_fps: int
    world: str | None = None
    mask: str = DEFAULT_MASK
    sampling: SamplingDefaults | None = None
    starts_from_images: bool = False


def read_settings(path: Path) -> ModelSettings | None:
    """Read `m2d.json`; None when there is none.

    Raises:
        CheckpointError: The file is not JSON, or has unknown, missing or wrong entries.
    """
    if not (path / SETTINGS_FILE).exists():
        return None
    entries, place = read_json(path, SETTINGS_FILE), path / SETTINGS_FILE
    known = {field.name for field in fields(ModelSettings)}
    if entries.keys() - known:
        raise CheckpointError(
            f"{place}: unknown {first_few(entries.keys() - known)}; allowed: {first_few(known, limit=9)}"
        )
    numbers = {name: whole_number(entries, name, place=place, most=_MOST[name]) for name in _MOST}
    if entries.get("world") not in (None, "puppet"):
        raise CheckpointError(f"{place}: world: {entries['world']!r} is unknown; allowed: 'puppet' or null")
    mask = entries.get("mask", DEFAULT_MASK)
    try:
        rule_of(str(mask))
    except LayoutError as error:
        raise CheckpointError(f"{place}: {error}") from error
    starts = entries.get("starts_from_images", False)
    if not isinstance(starts, bool):
        raise CheckpointError(f"{place}: starts_from_images: {starts!r} is neither true nor false")
    world = entries.get("world")
    sampling = _sampling_of(entries, place=place)
    if sampling is None and world == "puppet":
        # Folders written before this entry existed.
        sampling = PUPPET_SAMPLING
    return ModelSettings(world=world, mask=str(mask), sampling=sampling, starts_from_images=starts, **numbers)


def _sampling_of(entries: Mapping[str, Any], *, place: Path) -> SamplingDefaults | None:
    if entries.get("sampling") is None:
        return None
    try:
        return SamplingDefaults.model_validate(entries["sampling"])
    except ValidationError as error:
        problems = explain(error, model=SamplingDefaults, places=Places(path=str(place)))
        raise CheckpointError("\n".join(str(problem) for problem in problems)) from error


def whole_number(config: Mapping[str, Any], key: str, *, place: Path, most: int = 1 << 20) -> int:
    """Return a whole number of a config, from 1 to `most`.

    Raises:
        CheckpointError: It is missing or something else.
    """
    value = config.get(key)
    # A ratio may be stored as 4.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not 1 <= value <= most:
        found = "missing" if key not in config else f"{value!r}"
        raise CheckpointError(f"{place}: {key}: {found}; it must be a whole number from 1 to {most:,}")
    return value
