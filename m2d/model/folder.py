"""What may be read in a model folder: JSON and safetensors files that really lie in it.

Owns the safety of paths and the form of the two formats; knows no model. Nothing is ever unpickled or
imported from such a folder: other files are not looked at. Imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d import tensor_files
from m2d.cache_root import cache_root
from m2d.errors import CheckpointError
from m2d.reading import read_bytes

_MAX_JSON_BYTES = 1 << 24
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that can run code when they are read; m2d opens none of them."""
# Types that weights may have. Quantized integers would need a matching runtime.
_DTYPES = ("F16", "BF16", "F32", "F64")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """Where a tensor lies and what it is.

    Attributes:
        dtype: As safetensors calls it, such as `F16`.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def find_file(root: Path, relative: str) -> Path:
    """Find a regular file of a model folder.

    Links are followed inside the folder, to the `blobs` of a Hugging Face cache, whose snapshots are links,
    and in the folders of links that `m2d.families.opening` makes.

    Raises:
        CheckpointError: It is missing, not a regular file, or a link that leads elsewhere.
    """
    path = root / relative
    try:
        target = path.resolve(strict=True)
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: missing; the model folder is incomplete, get it again") from error
    if not _is_linked_by_m2d(root, path, target) and not any(
        target.is_relative_to(allowed) for allowed in _allowed_targets(root)
    ):
        raise CheckpointError(f"{path}: a link that leads out of the model folder; put the file itself there")
    if not target.is_file():
        raise CheckpointError(f"{path}: not a regular file; the model folder needs the file itself")
    return path


def read_json(root: Path, relative: str) -> dict[str, Any]:
    """Read a JSON object from a model folder.

    Raises:
        CheckpointError: As `find_file`, or the file is too large, not JSON, or not an object.
    """
    path = find_file(root, relative)
    try:
        content = json.loads(read_bytes(path, limit_bytes=_MAX_JSON_BYTES), parse_constant=_refuse_constant)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not valid JSON ({error}); the file is damaged, get it again"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a JSON object")
    return content


def find_weights(root: Path, component: str, stem: str) -> dict[str, StoredTensor]:
    """Find a component's weights, in one safetensors file or several, and check that all of it is there.

    Reads only the headers.

    Args:
        stem: File name before `.safetensors`.

    Returns:
        Tensor name -> where it lies.

    Raises:
        CheckpointError: A file is missing, damaged or truncated, an index does not fit its files, or the
            weights exist in a pickled format alone.
    """
    single, index = f"{component}/{stem}.safetensors", f"{component}/{stem}.safetensors.index.json"
    if (root / index).exists() and not (root / single).exists():
        return _sharded_weights(root, component, read_json(root, index), index)
    if not (root / single).exists():
        explain_missing_weights(root / component, stem)
    return read_header(find_file(root, single))


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Read what a safetensors file holds, and make sure that all of it is there.

    Raises:
        CheckpointError: The file is corrupt, truncated, or has tensors of other than floating-point types.
    """
    try:
        tensors = {
            name: StoredTensor(file=path, dtype=entry.dtype, shape=entry.shape)
            for name, entry in tensor_files.read_header(path).tensors.items()
        }
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}; get it again") from error
    for dtype in {tensor.dtype for tensor in tensors.values()} - {*_DTYPES}:
        raise CheckpointError(
            f"{path}: has weights of type {dtype}, which are quantized; m2d reads {', '.join(_DTYPES)}, "
            "so get the unquantized model"
        )
    return tensors


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def first_few(names: Iterable[str], *, limit: int = 4) -> str:
    """List names for a message, the first few of many."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def linked_models() -> Path:
    """Return the folder of the model folders that m2d makes of links to files in several places."""
    return cache_root() / "models"


def _is_linked_by_m2d(root: Path, path: Path, target: Path) -> bool:
    # Links to the file itself: what a link in another folder leads to was checked when it was made.
    return root.parent == linked_models() and path.is_symlink() and path.readlink() == target


def _allowed_targets(root: Path) -> list[Path]:
    resolved = root.resolve()
    allowed = [resolved]
    if resolved.parent.name == "snapshots":
        allowed.append(resolved.parents[1] / "blobs")
    return allowed


def _sharded_weights(
    root: Path, component: str, index: Mapping[str, Any], index_name: str
) -> dict[str, StoredTensor]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{root / index_name}: weight_map is missing or does not map tensors to files")
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(weight_map.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(
                f"{root / index_name}: {file!r} is not the name of a safetensors file beside it"
            )
        found |= read_header(find_file(root, f"{component}/{file}"))
    astray = {name for name, file in weight_map.items() if name not in found or found[name].file.name != file}
    astray |= found.keys() - weight_map.keys()
    if astray:
        raise CheckpointError(
            f"{root / index_name}: does not fit its files in {first_few(astray)}; get it again"
        )
    return found


def explain_missing_weights(folder: Path, stem: str) -> None:
    """Refuse a component's folder that holds only weights of a variant, or pickles; else do nothing.

    Args:
        stem: File name of the weights before `.safetensors`.

    Raises:
        CheckpointError: It names the variant or the pickle.
    """
    others = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    variants = [name for name in others if name.startswith(f"{stem}.") and name.endswith(".safetensors")]
    if variants:
        kind = variants[0].removeprefix(f"{stem}.").partition(".")[0]
        raise CheckpointError(
            f"{folder}: holds {variants[0]}, of the variant {kind!r}, and no {stem}.safetensors; "
            "choose that variant, or get the files without one"
        )
    pickled = [name for name in others if name.endswith(PICKLED)]
    if pickled:
        raise CheckpointError(
            f"{folder}: holds {pickled[0]}, a pickle that m2d never opens because it can run code, and no "
            f"{stem}.safetensors; convert it to safetensors"
        )
