"""LoRA files: whose names they use, which layers of a transformer they adapt, and how strongly.

Owns the formats' names: diffusers, PEFT, and kohya, which musubi-tuner and the CogVideoX-Fun and Mask2DiT
scripts write, too. Reads headers alone; `m2d.model.lora_weights` reads and applies the weights. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from m2d.errors import CheckpointError
from m2d.files import sha256_file
from m2d.folders import with_home
from m2d.model.folder import first_few, read_json
from m2d.tensor_files import TensorEntry, TensorHeader, read_header

LARGEST_BYTES = 1 << 34
_LARGEST_METADATA = 1 << 24
PEFT_CONFIG = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
# A stored alpha may be a whole number.
_DTYPES = ("F16", "BF16", "F32", "F64", "I32", "I64")
_WHOLE_NUMBERS = ("I32", "I64")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_PEFT_PREFIX = "base_model.model."
_PREFIXES = (_PEFT_PREFIX, "transformer.", "diffusion_model.", "model.")
# CogVideoX-Fun joins the prefix, the empty name of the whole model and the layer's name.
_FLAT_PREFIXES = ("lora_unet__", "lora_unet_", "lora_transformer_")
_WEIGHT = re.compile(
    r"(?P<layer>[^ ]+)\.(lora_(?P<letter>[AB])(\.(?P<adapter>\w+))?|lora[._](?P<side>down|up))\.weight"
)
_ALPHA = re.compile(r"(?P<layer>[^ ]+)\.alpha")
_PLAIN_PATTERN = re.compile(r"\^?[\w.]+\$?")


class LoraLayer(NamedTuple):
    """The two matrices of one layer.

    Attributes:
        module: The layer's name in the transformer.
        down: Key of the first matrix, (rank, inputs); of a convolution (rank, inputs, height, width).
        up: Key of the second matrix, (outputs, rank); of a convolution (outputs, rank, 1, 1).
        alpha: The product of both is multiplied by alpha / rank: a number, or the key that holds it.
        divisor: `rank`, or its root in rank-stabilized LoRA.
    """

    module: str
    down: str
    up: str
    alpha: float | str
    divisor: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraFile:
    """A LoRA that fits a transformer.

    Attributes:
        sha256: Of the file; of a PEFT adapter, of the digests of the file and of `adapter_config.json`.
        layers: By their names in the transformer, ascending.
        warning: What the file leaves open; empty for nothing.
    """

    path: Path
    sha256: str
    layers: tuple[LoraLayer, ...]
    warning: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraUse:
    """A LoRA at a strength, for all scenes or for some.

    Attributes:
        scale: Multiplies the strength that it was trained with.
        scenes: The scenes that it holds for, from 0, ascending; None for all.
    """

    file: LoraFile
    scale: float = 1.0
    scenes: tuple[int, ...] | None = None


def adapted_digest(weights_digest: str, loras: tuple[LoraUse, ...]) -> str:
    """Return the identity of weights with LoRAs; without LoRAs it is that of the weights."""
    used = [use for use in loras if use.scenes != ()]
    if not used:
        return weights_digest
    lines = [f"{use.file.sha256} {use.scale!r} {use.scenes}" for use in used]
    return hashlib.sha256("\n".join([weights_digest, *lines]).encode()).hexdigest()


def read_lora(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> LoraFile:
    """Read which layers a LoRA adapts, and make sure that they are those of a transformer.

    Args:
        path: A safetensors file. A PEFT adapter's `adapter_config.json` is read beside it.
        shapes: Name of each of the transformer's linear and convolutional layers to its weight's shape.

    Raises:
        CheckpointError: The file is missing, no safetensors file or too large, has keys of another kind, or
            belongs to another model.
    """
    path = with_home(path)
    header = _header(path)
    stored = header.tensors
    pairs, unknown = _sorted_keys(stored)
    if unknown or not pairs:
        raise CheckpointError(
            f"{path}: unknown {_named(unknown) or 'content: no LoRA weights'}; m2d reads lora_A and lora_B, "
            "or lora_down and lora_up, with alpha, of the transformer's layers"
        )
    facts, warning = _facts(path, header)
    layers = _layers(path, pairs, stored, shapes, facts)
    return LoraFile(path=path, sha256=lora_digest(path), layers=layers, warning=warning)


def lora_digest(path: Path) -> str:
    """Return the identity of a LoRA; see `LoraFile.sha256`."""
    config = path.parent / PEFT_CONFIG
    if not config.is_file() or not _is_peft(_header(path)):
        return sha256_file(path)
    return hashlib.sha256(f"{sha256_file(path)} {sha256_file(config)}".encode()).hexdigest()


def _is_peft(header: TensorHeader) -> bool:
    return any(key.startswith(_PEFT_PREFIX) for key in header.tensors)


def _header(path: Path) -> TensorHeader:
    if path.suffix.lower() in _PICKLED:
        raise CheckpointError(
            f"{path}: a pickle, which m2d never opens because it can run code; convert it to safetensors"
        )
    if path.is_dir():
        inside = sorted(each.name for each in path.glob("*.safetensors"))
        raise CheckpointError(f"{path}: a folder; give the file{f' {inside[0]} in it' if inside else ''}")
    try:
        header = read_header(path, limit_bytes=LARGEST_BYTES)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such file") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    for dtype in {entry.dtype for entry in header.tensors.values()} - {*_DTYPES}:
        raise CheckpointError(f"{path}: type {dtype} where {', '.join(_DTYPES)} are supported")
    return header


@dataclass(kw_only=True, slots=True)
class _Pair:
    """The keys of one layer, as the file names it."""

    down: str = ""
    up: str = ""
    alpha: str = ""


def _sorted_keys(stored: Mapping[str, TensorEntry]) -> tuple[dict[str, _Pair], list[str]]:
    """Return the keys by layer, and those of no LoRA."""
    pairs: dict[str, _Pair] = {}
    unknown: list[str] = []
    for key, tensor in stored.items():
        weight, alpha = _WEIGHT.fullmatch(key), _ALPHA.fullmatch(key)
        found = weight or alpha
        is_number = math.prod(tensor.shape) == 1
        if found is None or (alpha and not is_number) or (weight and tensor.dtype in _WHOLE_NUMBERS):
            unknown.append(key)
            continue
        pair = pairs.setdefault(found["layer"], _Pair())
        side = "alpha" if alpha else {"A": "down", "B": "up"}.get(found["letter"], found["side"])
        if getattr(pair, side):
            unknown.append(key)
        setattr(pair, side, key)
    return pairs, unknown


def _layers(
    path: Path,
    pairs: Mapping[str, _Pair],
    stored: Mapping[str, TensorEntry],
    shapes: Mapping[str, tuple[int, ...]],
    facts: _Facts,
) -> tuple[LoraLayer, ...]:
    flat = {name.replace(".", "_"): name for name in shapes}
    found: dict[str, LoraLayer] = {}
    foreign: list[str] = []
    for name, pair in pairs.items():
        module = _module_of(name, shapes, flat)
        if module is None:
            foreign.append(name)
            continue
        if not pair.down or not pair.up or module in found:
            raise CheckpointError(
                f"{path}: {name} has {'two pairs of matrices' if module in found else 'one matrix of two'}; "
                "get it again"
            )
        down, up = stored[pair.down].shape, stored[pair.up].shape
        if not _fits(down, up, shapes[module]):
            raise CheckpointError(
                f"{path}: is for another model: {module} is {list(shapes[module])} here, and the LoRA's "
                f"matrices are {list(up)} and {list(down)}"
            )
        rank = down[0]
        found[module] = LoraLayer(
            module=module,
            down=pair.down,
            up=pair.up,
            alpha=pair.alpha or facts.alpha(module, rank),
            divisor=math.sqrt(rank) if facts.is_stabilized else rank,
        )
    if foreign:
        raise CheckpointError(
            f"{path}: is for another model: this one's transformer has no {_named(foreign)}"
        )
    return tuple(found[module] for module in sorted(found))


def _module_of(name: str, shapes: Mapping[str, object], flat: Mapping[str, str]) -> str | None:
    """Return the transformer's name of a layer; None for a layer that it does not have."""
    for prefix in _FLAT_PREFIXES:
        if name.startswith(prefix):
            return flat.get(name.removeprefix(prefix))
    for prefix in ("", *_PREFIXES):
        # PEFT's prefix may stand before diffusers'.
        if name not in shapes:
            name = name.removeprefix(prefix)
    return name if name in shapes else None


def _named(keys: Iterable[str]) -> str:
    return first_few(key[:80] for key in keys)


def _fits(down: tuple[int, ...], up: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    if len(down) != len(weight) or len(up) != len(weight) or not down[0]:
        return False
    return down[1:] == weight[1:] and up == (weight[0], down[0], *(1 for _ in weight[2:]))


class _Facts(NamedTuple):
    """What a file says of its strength beside its tensors; a layer without an alpha has its rank as alpha."""

    lora_alpha: float | None = None
    alpha_pattern: Mapping[str, float] = {}
    is_stabilized: bool = False

    def alpha(self, module: str, rank: int) -> float:
        """Return a layer's alpha, by the first pattern that names it, or else the file's."""
        for pattern, alpha in self.alpha_pattern.items():
            name = pattern.removeprefix("^").removesuffix("$")
            if module == name or (not pattern.startswith("^") and module.endswith(f".{name}")):
                return alpha
        return rank if self.lora_alpha is None else self.lora_alpha


def _facts(path: Path, header: TensorHeader) -> tuple[_Facts, str]:
    """Read the strength of a file, and what it leaves open."""
    text = header.metadata.get(METADATA_KEY)
    if text is not None:
        return _parsed(path, _metadata(path, text)), ""
    if not _is_peft(header) or any(key.endswith(".alpha") for key in header.tensors):
        return _Facts(), ""
    if (path.parent / PEFT_CONFIG).exists():
        return _parsed(path, read_json(path.parent, PEFT_CONFIG)), ""
    return _Facts(), f"{path.name}: no {PEFT_CONFIG} beside it says its alpha; it is taken to be the rank"


def _metadata(path: Path, text: str) -> dict[str, Any]:
    """Return the transformer's part of diffusers' metadata."""
    try:
        document = json.loads(text) if len(text) <= _LARGEST_METADATA else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise CheckpointError(f"{path}: its {METADATA_KEY} is not a JSON object; get it again")
    return {key.removeprefix("transformer."): value for key, value in document.items()}


def _parsed(path: Path, config: Mapping[str, Any]) -> _Facts:
    """Check the fields of a LoRA's config that change what it computes."""
    for name in ("use_dora", "use_qalora", "lora_bias", "fan_in_fan_out"):
        if config.get(name):
            raise CheckpointError(f"{path}: {name} is set, which m2d does not support; use a plain LoRA")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"{path}: alpha_pattern is not a mapping; get the file again")
    numbers = {str(key).replace("\\.", "."): value for key, value in patterns.items()}
    for name in numbers:
        if not _PLAIN_PATTERN.fullmatch(name):
            raise CheckpointError(f"{path}: alpha_pattern {name[:80]!r}: only names of layers are supported")
    alpha = config.get("lora_alpha")
    for name, value in [*numbers.items(), *([] if alpha is None else [("lora_alpha", alpha)])]:
        if type(value) not in (int, float) or not math.isfinite(value):
            raise CheckpointError(f"{path}: {name} is {repr(value)[:80]}, not a number; get the file again")
    return _Facts(
        lora_alpha=alpha,
        alpha_pattern=numbers,
        is_stabilized=bool(config.get("use_rslora")),
    )
