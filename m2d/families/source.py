"""A model as the rest of m2d sees it: a complete folder with known sizes and an identity.

Owns finding it and its digest. Imports no torch: `m2d check` uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from m2d.families.family import ModelFamily
from m2d.families.opening import builtin_folder, open_folder
from m2d.families.places import OpenedFolder
from m2d.families.registry import family_of
from m2d.files import sha256_file
from m2d.geometry import ModelGeometry
from m2d.model.components import COMPONENTS, check_components, class_of, read_config, tokenizer_file
from m2d.model.folder import find_file, find_weights
from m2d.model.settings import SETTINGS_FILE, ModelSettings, SamplingDefaults, read_settings
from m2d.progress import Reporter
from m2d.recipe.model_choice import ModelChoice


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A complete model folder. Not slotted: the digest is taken once, when it is first asked for.

    Attributes:
        choice: As the user gave it.
        opened: Its folder, and where the parts come from.
        is_puppet: Whether it knows the puppet theatre's world, and only that.
        sampling: How it samples where a recipe does not say.
        mask: The attention mask it was trained with.
        is_joint: Whether it is known to be trained on several scenes together.
        vae_doubt: Why its VAE is hardly the one that the transformer was trained with; empty for no reason.
    """

    choice: ModelChoice
    opened: OpenedFolder
    geometry: ModelGeometry
    family: ModelFamily
    is_puppet: bool
    sampling: SamplingDefaults
    mask: str = "mask2dit"
    is_joint: bool = True
    vae_doubt: str = ""

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.opened.path

    @property
    def name(self) -> str:
        """The model's name as the user gave it, without its parts."""
        return self.choice.model

    @property
    def configs(self) -> Mapping[str, Mapping[str, Any]]:
        """Configs of the parts that have weights."""
        return {name: read_config(self.path, name) for name in COMPONENTS if COMPONENTS[name].stem}

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over weights, configs and tokenizer: equal for models that compute the same."""
        return _combined(self._file_digests)

    @property
    def is_embedded(self) -> bool:
        """Whether all of it comes with m2d."""
        return self.path == builtin_folder(self.name)

    @cached_property
    def stored_dtype(self) -> Literal["float32", "bfloat16", "float16"]:
        """Data type for a GPU: that of the transformer's weights; for an embedded model float32."""
        if self.is_embedded:
            return "float32"
        stored = find_weights(self.path, "transformer", COMPONENTS["transformer"].stem)
        found = {tensor.dtype for tensor in stored.values()}
        return "bfloat16" if "BF16" in found else "float16" if found == {"F16"} else "float32"

    def denoising_digest(self, *, with_vae: bool) -> str:
        """SHA-256 (hex) over what takes part in denoising: equal for models that denoise alike.

        Args:
            with_vae: Whether frames are encoded or decoded before denoising ends.
        """
        scheduler = f"scheduler/{COMPONENTS['scheduler'].config}"
        files = {
            name: digest
            for name, digest in self._file_digests.items()
            if with_vae or not name.startswith("vae/")
        }
        return _combined(files | {scheduler: sha256_file(find_file(self.path, scheduler))})

    @cached_property
    def _file_digests(self) -> dict[str, str]:
        files = {tokenizer_file(self.path)}
        for name in ("transformer", "vae", "text_encoder"):
            component = COMPONENTS[name]
            files.add(find_file(self.path, f"{name}/{component.config}"))
            files |= {tensor.file for tensor in find_weights(self.path, name, component.stem).values()}
        found = {path.relative_to(self.path).as_posix(): sha256_file(path) for path in sorted(files)}
        # It changes how given first frames are denoised. Models without it keep their digests.
        return found | ({"starts_from_images": "true"} if self.geometry.starts_from_images else {})


def _combined(digests: Mapping[str, str]) -> str:
    entries = [f"{name} {digest}" for name, digest in digests.items()]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def resolve_model(model: ModelChoice | str, *, downloads: Reporter | None = None) -> ModelSource:
    """Find a model and make sure that its folder is complete.

    Reads configs and the headers of the weights, not the weights.

    Args:
        model: One of `BUILTIN_MODELS`, a folder in diffusers' layout, or the id of a model on a hub, with `@`
            and a revision if it is not the main one; a `ModelChoice` has parts from other places.
        downloads: Receives the progress of downloads; None downloads nothing.

    Raises:
        CheckpointError: There is no such model, or its folder is not complete, or a tensor is missing or of
            another model; every missing or bad file is named.
        HubUnavailable: The hub does not answer.
    """
    choice = ModelChoice.model_construct(model=model) if isinstance(model, str) else model
    opened = open_folder(choice, downloads)
    path = opened.path
    with opened.naming_places():
        family = family_of(path)
        check_components(path, COMPONENTS, family.classes)
        settings, transformer = settings_of(path), read_config(path, "transformer")
        source = ModelSource(
            choice=choice,
            opened=opened,
            geometry=family.read_geometry(path, settings),
            family=family,
            is_puppet=settings.world == "puppet",
            sampling=settings.sampling or family.default_sampling(transformer),
            mask=settings.mask,
            is_joint=(path / SETTINGS_FILE).exists() or class_of(path, "transformer") in family.joint_classes,
            vae_doubt=family.vae_doubt(transformer, read_config(path, "vae")),
        )
        # What contradicts itself says more than the tensors that do not fit it.
        family.check_shapes(path, COMPONENTS)
        return source


def settings_of(path: Path) -> ModelSettings:
    """Read a model folder's settings, or take its family's when it has none.

    Raises:
        CheckpointError: `m2d.json` is wrong, or the configs in its place are.
    """
    return read_settings(path) or family_of(path).default_settings(path)
