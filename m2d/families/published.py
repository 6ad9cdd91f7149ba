"""A published model that is not on this machine, known by its sizes: enough to predict a run, not to make it.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from m2d.families.family import KnownModel
from m2d.families.places import OpenedFolder
from m2d.families.registry import FAMILIES, known_model
from m2d.families.source import ModelSource
from m2d.model.settings import DEFAULT_SCENES, ModelSettings
from m2d.recipe.model_choice import ModelChoice


@dataclass(frozen=True, kw_only=True)
class PublishedSource(ModelSource):
    """A published model without a folder; it has no digest.

    Attributes:
        absence: Why its folder cannot be used.
    """

    known: KnownModel
    absence: str

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Published configs of the parts that have weights."""
        return {
            "transformer": self.known.transformer,
            "vae": self.known.vae,
            "text_encoder": self.known.text_encoder,
        }

    @cached_property
    def stored_dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """Data type that its weights are published in."""
        return cast(Literal["bfloat16", "float16"], self.known.dtype)

    @property
    def warning(self) -> str:
        """What a prediction for it rests on."""
        return (
            f"{self.absence}: time and memory are predicted from the published sizes of {self.known.name}; "
            "no file was checked and no prompt counted"
        )


def published_source(choice: ModelChoice, *, absence: str) -> PublishedSource | None:
    """Return the model by its published sizes; None if it is not a known one or has parts from elsewhere.

    Args:
        absence: Why its folder cannot be used.
    """
    known = known_model(choice.model)
    family = next((each for each in FAMILIES if known in each.known_models.values()), None)
    if known is None or family is None or choice.parts:
        return None
    settings = ModelSettings(
        num_scenes=known.num_scenes or DEFAULT_SCENES,
        default_num_frames=known.num_frames,
        default_height=known.height,
        default_width=known.width,
        default_fps=known.fps,
    )
    compression = (known.spatial_compression, known.temporal_compression)
    config = {**known.transformer, "_class_name": known.transformer_class}
    return PublishedSource(
        choice=choice,
        opened=OpenedFolder(path=Path(choice.model)),
        geometry=family.geometry_of(known.transformer, settings, compression=compression),
        family=family,
        is_puppet=False,
        sampling=family.default_sampling(config),
        is_joint=known.transformer_class in family.joint_classes,
        known=known,
        absence=absence,
    )
