"""Stores the weights of a transformer's blocks in fewer bits, with torchao, or takes them from a GGUF file.

Owns which layers are quantized and whether a file fits a model; the libraries quantize and compute.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d.errors import BackendUnavailable, CheckpointError, first_line
from m2d.files import sha256_file
from m2d.folders import with_home
from m2d.model.folder import first_few
from m2d.placement.modes import Quantized, QuantizeKind
from m2d.reading import check_regular

if TYPE_CHECKING:
    import torch
    from torch import nn

_BLOCKS = "transformer_blocks."
# What other programs put before the names of a transformer's tensors.
_PREFIXES = ("model.diffusion_model.", "transformer.")


def find_quantized(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Quantized | None:
    """Return how a transformer's weights are stored; None for `none`.

    Args:
        name: `none`, `fp8`, `int8`, or a GGUF file.
        shapes: The transformer's tensors, which those of a file must fit.

    Raises:
        BackendUnavailable: A package is missing.
        CheckpointError: The file is missing, corrupt, or of another model.
    """
    if name == "none":
        return None
    kinds: dict[str, QuantizeKind] = {"fp8": "fp8", "int8": "int8"}
    if name in kinds:
        _require("torchao", name)
        return Quantized(kind=kinds[name])
    _require("gguf", "a GGUF file")
    path = with_home(name)
    try:
        check_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    linear_bytes = _check_fit(path, shapes)
    return Quantized(kind="gguf", file=path, sha256=sha256_file(path), size_bytes=linear_bytes)


def _require(package: str, what: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise BackendUnavailable(
            f"quantize: {what} needs the package {package}, which is not installed; the extra `quantize` "
            "of m2d has it: pip install 'm2d[quantize]'"
        )


def _tensors_of(path: Path) -> dict[str, Any]:
    """Return the tensors of a GGUF file, by their names in diffusers."""
    from gguf import GGUFReader

    try:
        tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    except (ValueError, KeyError, IndexError, OSError, OverflowError, MemoryError, TypeError) as error:
        raise CheckpointError(f"{path}: is no GGUF file, or corrupt: {first_line(error)}") from error
    for prefix in _PREFIXES:
        if tensors and all(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _check_fit(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Compare a file's tensors with a transformer's; return the size of those of two dimensions."""
    tensors = _tensors_of(path)
    # GGUF counts dimensions from the last one.
    found = {name: tuple(map(int, reversed(tensor.shape))) for name, tensor in tensors.items()}
    problems = [
        f"{what}: {first_few(names)}"
        for what, names in (
            ("missing", shapes.keys() - found.keys()),
            ("not of this model", found.keys() - shapes.keys()),
            (
                "of the wrong shape",
                {name for name in found.keys() & shapes.keys() if found[name] != shapes[name]},
            ),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{path}: is for another model: {'; '.join(problems)}; m2d reads names of diffusers"
        )
    return sum(int(tensor.n_bytes) for name, tensor in tensors.items() if len(found[name]) == 2)


def quantize(model: nn.Module, quantized: Quantized, *, dtype: torch.dtype) -> None:
    """Store the weights of a transformer in fewer bits, in place; it computes in `dtype` as before.

    Args:
        model: For inference, in the CPU's memory.

    Raises:
        CheckpointError: The file changed since it was found, or has a kind of tensor that diffusers lacks.
    """
    if quantized.kind == "gguf":
        _take_gguf(model, quantized, dtype=dtype)
        return
    from torch import nn
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_

    config = Int8WeightOnlyConfig() if quantized.kind == "int8" else Float8WeightOnlyConfig()
    quantize_(model, config, lambda layer, name: isinstance(layer, nn.Linear) and name.startswith(_BLOCKS))


def _take_gguf(model: nn.Module, quantized: Quantized, *, dtype: torch.dtype) -> None:
    from diffusers.models.model_loading_utils import load_gguf_checkpoint
    from diffusers.quantizers.gguf.utils import (
        GGUFParameter,
        _replace_with_gguf_linear,
        dequantize_gguf_tensor,
    )
    from torch import nn

    assert quantized.file is not None
    if sha256_file(quantized.file) != quantized.sha256:
        raise CheckpointError(f"{quantized.file}: has changed since the run was planned; start again")
    try:
        stored = load_gguf_checkpoint(str(quantized.file))
    except ValueError as error:
        raise CheckpointError(f"{quantized.file}: {first_line(error)}") from error
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in stored):
            stored = {name.removeprefix(prefix): tensor for name, tensor in stored.items()}
    _replace_with_gguf_linear(model, dtype, stored)
    modules = dict(model.named_modules())
    for name, tensor in stored.items():
        owner, _, attribute = name.rpartition(".")
        is_quantized = isinstance(tensor, GGUFParameter)
        if is_quantized and not isinstance(modules[owner], nn.Linear):
            tensor, is_quantized = dequantize_gguf_tensor(tensor), False
        value = tensor if is_quantized else nn.Parameter(tensor.to(dtype), requires_grad=False)
        setattr(modules[owner], attribute, value)
