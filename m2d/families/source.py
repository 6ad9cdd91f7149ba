"""A model as the rest of m2d sees it: a complete folder with known sizes and an identity.

Owns finding it and its digest. Imports no torch: `m2d check` uses it.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from m2d.errors import CheckpointError
from m2d.families.family import ModelFamily
from m2d.families.hub import cached_snapshot
from m2d.families.registry import family_of
from m2d.files import sha256_file
from m2d.folders import is_folder
from m2d.geometry import ModelGeometry
from m2d.model.components import COMPONENTS, INDEX_FILE, check_components, read_config, tokenizer_file
from m2d.model.folder import find_file, find_weights
from m2d.model.settings import ModelSettings, SamplingDefaults, read_settings
from m2d.recipe.fields import DEFAULT_MODEL

BUILTIN_PUPPET = "builtin:puppet"
BUILTIN_MODELS = {DEFAULT_MODEL: "weights-large", BUILTIN_PUPPET: "weights"}
"""Models that come with m2d, and their folders in `m2d/puppet`."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A complete model folder. Not slotted: the digest is taken once, when it is first asked for.

    Attributes:
        name: As the user gave it.
        is_puppet: Whether it knows the puppet theatre's world, and only that.
        sampling: How it samples where a recipe does not say.
        mask: The attention mask it was trained with.
    """

    name: str
    path: Path
    geometry: ModelGeometry
    family: ModelFamily
    is_puppet: bool
    sampling: SamplingDefaults
    mask: str = "mask2dit"

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over weights, configs and tokenizer: equal for models that compute the same."""
        entries = [
            f"{path.relative_to(self.path).as_posix()} {sha256_file(path)}"
            for path in self._computing_files()
        ]
        return hashlib.sha256("\n".join(entries).encode()).hexdigest()

    def _computing_files(self) -> list[Path]:
        files = {tokenizer_file(self.path)}
        for name in ("transformer", "vae", "text_encoder"):
            component = COMPONENTS[name]
            files.add(find_file(self.path, f"{name}/{component.config}"))
            files |= {tensor.file for tensor in find_weights(self.path, name, component.stem).values()}
        return sorted(files)


def resolve_model(name_or_path: str) -> ModelSource:
    """Find a model and make sure that its folder is complete.

    Reads configs and the headers of the weights, not the weights.

    Args:
        name_or_path: One of `BUILTIN_MODELS`, a folder in diffusers' layout, or the id of a model on the hub
            that is in Hugging Face's cache, with `@` and a revision if it is not the main one.

    Raises:
        CheckpointError: There is no such folder, or it is not complete; every missing or bad file is named.
    """
    path = _folder_of(name_or_path)
    family = family_of(path)
    check_components(path, COMPONENTS, family.classes)
    settings = settings_of(path)
    return ModelSource(
        name=name_or_path,
        path=path,
        geometry=family.read_geometry(path, settings),
        family=family,
        is_puppet=settings.world == "puppet",
        sampling=settings.sampling or family.default_sampling(read_config(path, "transformer")),
        mask=settings.mask,
    )


def settings_of(path: Path) -> ModelSettings:
    """Read a model folder's settings, or take its family's when it has none.

    Raises:
        CheckpointError: `m2d.json` is wrong, or the configs in its place are.
    """
    return read_settings(path) or family_of(path).default_settings(path)


def builtin_folder(name: str) -> Path | None:
    """Return where a model that comes with m2d has to be; None for any other."""
    folder = BUILTIN_MODELS.get(name)
    return Path(__file__).parents[1] / "puppet" / folder if folder else None


def _folder_of(name_or_path: str) -> Path:
    path = builtin_folder(name_or_path)
    if path is not None:
        if not path.is_dir():
            raise CheckpointError(
                f"model {name_or_path}: this installation of m2d has no {path}; install it again"
            )
        return path
    if name_or_path.startswith("builtin:"):
        raise CheckpointError(
            f"model {name_or_path!r} is unknown; the built-in models are {', '.join(BUILTIN_MODELS)}"
        )
    # pathlib's own functions raise on names that the system rejects.
    path = Path(os.path.expanduser(name_or_path))  # noqa: PTH111
    if "\0" not in name_or_path and os.path.isfile(path):  # noqa: PTH113
        raise CheckpointError(
            f"{path}: a file, where a model folder is needed; weights of a transformer belong into one, as "
            "transformer/diffusion_pytorch_model.safetensors beside vae/ and the other parts"
        )
    if "\0" not in name_or_path and is_folder(path):
        if not (path / INDEX_FILE).exists():
            raise CheckpointError(
                f"{path}: not a model folder, without {INDEX_FILE}; give the one that holds transformer/ and"
                " vae/"
            )
        return path
    if _HUB_ID.fullmatch(name_or_path):
        cached = cached_snapshot(name_or_path)
        if cached is not None:
            return cached
    advice = f"give a folder in diffusers' layout, or {' or '.join(BUILTIN_MODELS)}"
    if _HUB_ID.fullmatch(name_or_path):
        advice += (
            f"; to use this model of a hub, download it first: hf download {name_or_path.partition('@')[0]}"
        )
    raise CheckpointError(f"model {name_or_path!r}: there is no such folder; {advice}")
