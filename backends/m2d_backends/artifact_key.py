"""The key of an exported graph: model, layout, size, dtype, device, versions. A graph serves equal keys only.

Owns making, naming and comparing keys; `m2d_backends.artifact` checks the folder against its key.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from m2d.backend import BackendOptions, ExportManifest
from m2d.backend_checks import chosen_targets
from m2d.cache_root import cache_root
from m2d.errors import InputError
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.model.lora_file import adapted_digest

ArtifactKey = ExportManifest
"""An artifact runs when its manifest equals the key that is looked for, field by field."""

# Not in the folder's name: a graph of other versions is replaced; the manifest names its versions.
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
    """Return the key of the graph that `options` ask for.

    Args:
        layout: The baked layout.
        options: Must name the latent size.
        versions: Libraries that the graph depends on, and the opset if there is one.
        device: The device it is compiled for; empty takes the options' device and this processor's kind.

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
        weights_digest=adapted_digest(source.digest, options.loras),
        layout_digest=layout.digest(),
        latent_shape=(sum(layout.latent_frames), source.geometry.input_channels, height, width),
        batch_size=options.batch_size,
        targets=chosen_targets(layout, options.targets),
        dtype=options.dtype,
        device=device or f"{options.device} {platform.machine()}",
        versions=dict(versions),
    )


def package_versions(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages, by name."""
    return {package: metadata.version(package) for package in packages}


def default_folder(key: ArtifactKey, *, label: str = "", root: Path | None = None) -> Path:
    """Return the folder of a key's artifact in `root` or the user's cache; versions do not change it."""
    named = {name: value for name, value in key_as_json(key).items() if name not in _NOT_IN_NAME}
    named["device"] = key.device.split()[0]
    digest = _sha256(named)[:16]
    frames, _, height, width = key.latent_shape
    parts = (key.backend, label, f"{frames}x{height}x{width}", f"b{key.batch_size}", key.dtype, digest)
    return (root or cache_root() / "artifacts") / "-".join(filter(None, parts))


def label_of(source: ModelSource, layout: SceneLayout) -> str:
    """Return a short name of a model and a story, such as `puppet-3-mask2dit`."""
    model = re.sub(r"[^A-Za-z0-9.]+", "-", source.name.rstrip("/").split("/")[-1].removeprefix("builtin:"))
    mask = layout.mask.replace(":", "")
    return f"{model[:40].strip('-.') or 'model'}-{layout.num_scenes}-{mask}"


def different_fields(found: ArtifactKey, wanted: ArtifactKey) -> list[str]:
    """Return a text with both values for each field that differs."""
    here, there = key_as_json(found), key_as_json(wanted)
    return [
        f"{name}: artifact {_short(here[name])}, wanted {_short(there[name])}"
        for name in here
        if here[name] != there[name]
    ]


def key_digest(key: ArtifactKey) -> str:
    """Return the SHA-256 (hex) of a key."""
    return _sha256(key_as_json(key))


def _sha256(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def key_as_json(key: ArtifactKey) -> dict[str, Any]:
    """Return a key as its manifest stores it."""
    return json.loads(json.dumps(asdict(key)))  # type: ignore[no-any-return]


def _short(value: object) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
