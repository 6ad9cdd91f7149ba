"""The families that m2d runs, and which of them a model folder belongs to. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from m2d.errors import CheckpointError
from m2d.families.cogvideox.family import COGVIDEOX
from m2d.families.family import KnownModel, ModelFamily
from m2d.model.components import class_of

FAMILIES: tuple[ModelFamily, ...] = (COGVIDEOX,)
NEW_MODELS = COGVIDEOX
"""The family of transformers that `m2d train` starts from random weights."""


def family_of(path: Path, component: str = "transformer") -> ModelFamily:
    """Return the family whose class a component of a model folder names.

    A folder that names the class of no family is taken for one of the first, whose checks say what is wrong.
    """
    try:
        found = class_of(path, component)
    except CheckpointError:
        return FAMILIES[0]
    return next((family for family in FAMILIES if found in family.classes[component]), FAMILIES[0])


def known_model(name: str) -> KnownModel | None:
    """Return the published model that a folder's or hub's name says, such as `models/CogVideoX-5b`."""
    last = name.rstrip("/").rpartition("/")[2].lower().replace("cogvideox-1.5", "cogvideox1.5")
    return next((family.known_models[last] for family in FAMILIES if last in family.known_models), None)
