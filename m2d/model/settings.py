"""`m2d.json` in a model folder: what the configs of its components do not say. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError
from m2d.masks import LayoutError, rule_of
from m2d.model.folder import first_few, read_json

SETTINGS_FILE = "m2d.json"
DEFAULT_MASK = "mask2dit"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSettings:
    """The content of `m2d.json`: what diffusers' configs do not say.

    Attributes:
        world: `puppet` for a model of the puppet theatre; None for any other.
        mask: The attention mask it was trained with.
    """

    num_scenes: int
    default_num_frames: int
    default_height: int
    default_width: int
    default_fps: int
    world: str | None = None
    mask: str = DEFAULT_MASK


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
    numbers = {name: whole_number(entries, name, place=place) for name in known - {"world", "mask"}}
    if entries.get("world") not in (None, "puppet"):
        raise CheckpointError(f"{place}: world: {entries['world']!r} is unknown; allowed: 'puppet' or null")
    mask = entries.get("mask", DEFAULT_MASK)
    try:
        rule_of(str(mask))
    except LayoutError as error:
        raise CheckpointError(f"{place}: {error}") from error
    return ModelSettings(world=entries.get("world"), mask=mask, **numbers)


def whole_number(config: Mapping[str, Any], key: str, *, place: Path) -> int:
    """Return a positive whole number of a config.

    Raises:
        CheckpointError: It is missing or something else.
    """
    value = config.get(key)
    # A ratio may be stored as 4.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        found = "missing" if key not in config else f"{value!r}"
        raise CheckpointError(f"{place}: {key}: {found}; it must be a whole number from 1")
    return value
