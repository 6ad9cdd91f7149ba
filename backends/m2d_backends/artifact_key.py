"""What an exported graph is made from, as a key: equal keys, and only these, may run the same graph.

Owns how a key is made, named and compared; whether a folder holds what its key says is
`m2d_backends.artifact`'s.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from m2d.backend import BackendOptions, ExportManifest
from m2d.backend_checks import chosen_targets
from m2d.cache_root import cache_root
from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout

ArtifactKey = ExportManifest
"""An artifact runs when its manifest equals the key that is looked for, field by field."""

# Not in a folder's name: a graph made by other versions is replaced, and told apart by its manifest.
_NOT_IN_NAME = {"versions", "device"}


def make_key(
    backend: str,
    source: ModelSource,
    layout: SceneLayout,
    options: BackendOptions,
    *,
    versions: Mapping[str, str],
    device: str = "",
) -> ArtifactKey:
    """The key of the graph that `options` ask for.

    Args:
        backend: Its name.
        source: The model.
        layout: The baked layout.
        options: With the latent size.
        versions: Libraries that the graph depends on, and the opset if there is one.
        device: What it is compiled for; empty takes the options' device and this processor's kind.

    Raises:
        InputError: The options name no latent size, or a size or targets that are not the layout's.
    """
    if options.latent_size is None:
        raise InputError(
            f"backend {backend!r}: a graph is made for one size; give latent_size=(height, width)"
        )
    height, width = options.latent_size
    patch = source.geometry.patch_size
    num_tokens = (height // patch) * (width // patch)
    if num_tokens != layout.tokens_per_frame or height % patch or width % patch:
        raise InputError(
            f"latent_size: got {height}x{width} in patches of {patch}, the layout has "
            f"{layout.tokens_per_frame} tokens per frame"
        )
    return ArtifactKey(
        backend=backend,
        weights_digest=source.digest,
        layout_digest=layout.digest(),
        latent_shape=(sum(layout.latent_frames), source.geometry.latent_channels, height, width),
        batch_size=options.batch_size,
        targets=chosen_targets(layout, options.targets),
        dtype=options.dtype,
        device=device or f"{options.device} {platform.machine()}",
        versions=dict(versions),
    )


def package_versions(*packages: str) -> dict[str, str]:
    """Versions of installed packages, by name."""
    return {package: metadata.version(package) for package in packages}


def default_folder(key: ArtifactKey, *, label: str = "", root: Path | None = None) -> Path:
    """The folder of a key's artifact; the same for every version of the libraries that make it.

    Args:
        key: What it is for.
        label: What people call the model and the story, in short; see `label_of`.
        root: Where artifacts are; None is the user's cache.
    """
    named = {name: value for name, value in key_as_json(key).items() if name not in _NOT_IN_NAME}
    named["device"] = key.device.split()[0]
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    frames, _, height, width = key.latent_shape
    parts = (key.backend, label, f"{frames}x{height}x{width}", f"b{key.batch_size}", key.dtype, digest)
    return (root or cache_root() / "artifacts") / "-".join(filter(None, parts))


def label_of(source: ModelSource, layout: SceneLayout) -> str:
    """What people call a model and a story: `puppet-3-mask2dit`."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", source.name.rstrip("/").split("/")[-1].removeprefix("builtin:"))
    mask = layout.mask.replace(":", "")
    return f"{model[:40].strip('-.') or 'model'}-{layout.num_scenes}-{mask}"


def different_fields(found: ArtifactKey, wanted: ArtifactKey) -> list[str]:
    """What differs between two keys, a text for each field with both values."""
    here, there = key_as_json(found), key_as_json(wanted)
    return [
        f"{name}: artifact {_short(here[name])}, wanted {_short(there[name])}"
        for name in here
        if here[name] != there[name]
    ]


def key_digest(key: ArtifactKey) -> str:
    """SHA-256 (hex) of a key."""
    return hashlib.sha256(json.dumps(key_as_json(key), sort_keys=True).encode()).hexdigest()


def key_as_json(key: ArtifactKey) -> dict[str, Any]:
    """A key as a manifest holds it."""
    values = {each.name: getattr(key, each.name) for each in fields(key)}
    return json.loads(json.dumps({**values, "versions": dict(key.versions)}))  # type: ignore[no-any-return]


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
