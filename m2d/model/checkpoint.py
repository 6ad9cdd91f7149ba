"""Building a model from a folder: its config, then its weights.

Every tensor is checked against the config before any is read, so that no model is ever partial. Importing
this module imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from m2d.errors import LIBRARY_ERRORS, CheckpointError, first_line
from m2d.model.components import COMPONENTS, read_config
from m2d.model.folder import StoredTensor, find_weights, first_few
from m2d.tensor_files import opened_tensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

# Values that are converted at once.
_PORTION = 32 << 20
# What torch.compile puts before the names of a module's parameters.
_COMPILED = "_orig_mod."
ModelT = TypeVar("ModelT", bound="nn.Module")


def build_model(model_class: Any, path: Path, name: str, *, ignored: frozenset[str] = frozenset()) -> Any:
    """Construct a diffusers model from its config, its parameters still without storage.

    Args:
        ignored: Keys of the config that the class does not know and that change nothing.

    Raises:
        CheckpointError: The config describes no such model.
    """
    from accelerate import init_empty_weights

    place = path / name / COMPONENTS[name].config
    config = {key: value for key, value in read_config(path, name).items() if not key.startswith("_")}
    known = inspect.signature(model_class.__init__).parameters.keys() - {"self"}
    # A key that is unset cannot change anything; any other may make it a different model.
    unknown = {key or '""' for key in config.keys() - known - ignored if config[key] not in (None, False)}
    if unknown:
        raise CheckpointError(
            f"{place}: unknown {first_few(unknown)}; this is a variant that m2d does not know"
        )
    try:
        with init_empty_weights(include_buffers=False):
            return model_class(**{key: value for key, value in config.items() if key in known})
    except LIBRARY_ERRORS as error:
        raise CheckpointError(f"{place}: describes no model that m2d can run: {first_line(error)}") from error


def load_weights(
    model: ModelT, path: Path, name: str, *, device: str | torch.device, dtype: torch.dtype
) -> ModelT:
    """Give a model its weights, after making sure that these are exactly its own.

    Raises:
        CheckpointError: They are not, or their files are missing or corrupt.
    """
    import torch

    stored = find_weights(path, name, COMPONENTS[name].stem)
    tied: Mapping[str, str] = getattr(model, "_tied_weights_keys", None) or {}
    _check_fit(_shapes_of(model), stored, tied, place=path / name)
    # T5's feed-forward outputs overflow half precision; transformers names the layers to keep.
    kept = tuple(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype == torch.float16 else ()
    for names in _portions({key: tensor for key, tensor in stored.items() if key not in tied}):
        with opened_tensors(stored[names[0]].file, "pt") as file:
            weights = {
                key: file.get_tensor(key).to(
                    device=device, dtype=torch.float32 if _is_of(key, kept) else dtype
                )
                for key in names
            }
        model.load_state_dict(weights, strict=False, assign=True)
    for copy, original in tied.items():
        owner, _, attribute = copy.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(original))
    for key, buffer in model.named_buffers():
        if key not in stored:
            owner, _, attribute = key.rpartition(".")
            moved = buffer.to(device=device, dtype=dtype if buffer.is_floating_point() else None)
            setattr(model.get_submodule(owner), attribute, moved)
    return model.eval()


def _portions(stored: Mapping[str, StoredTensor]) -> Iterator[list[str]]:
    """Yield the names of tensors of one file each, whose values are read into memory at once.

    A file stays mapped as long as it is open, so what was converted of it takes memory twice.
    """
    names: list[str] = []
    num_values = 0
    # A file's tensors follow each other as in its header.
    for name, tensor in sorted(stored.items(), key=lambda item: str(item[1].file)):
        values = prod(tensor.shape)
        if names and (tensor.file != stored[names[0]].file or num_values + values > _PORTION):
            yield names
            names, num_values = [], 0
        names.append(name)
        num_values += values
    if names:
        yield names


def _is_of(key: str, layers: tuple[str, ...]) -> bool:
    """Whether a tensor belongs to a layer of one of these names."""
    return any(part in layers for part in key.split(".")[:-1])


def check_weights(model: nn.Module, path: Path, name: str) -> None:
    """Make sure that a component's weights are exactly those of a model, from their headers alone.

    Raises:
        CheckpointError: They are not, or their files are missing or corrupt.
    """
    check_shapes(_shapes_of(model), path, name, tied=getattr(model, "_tied_weights_keys", None) or {})


def check_shapes(
    expected: Mapping[str, tuple[int, ...]], path: Path, name: str, *, tied: Collection[str] = ()
) -> None:
    """Make sure that a component's weights have these names and shapes, from their headers alone.

    Args:
        tied: Copies of other tensors, which may be missing or there.

    Raises:
        CheckpointError: They have not, or their files are missing or corrupt.
    """
    _check_fit(expected, find_weights(path, name, COMPONENTS[name].stem), tied, place=path / name)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Map all tensors of a safetensors file into memory; raises as `m2d.tensor_files.read_header`."""
    with opened_tensors(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def _shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _check_fit(
    expected: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    tied: Collection[str],
    *,
    place: Path,
) -> None:
    missing = expected.keys() - stored.keys() - set(tied)
    foreign = stored.keys() - expected.keys() - set(tied)
    if foreign and all(name.startswith(_COMPILED) for name in foreign):
        raise CheckpointError(
            f"{place}: the names of the weights begin with {_COMPILED}, as those of a compiled model; "
            "save those of the model itself"
        )
    misshapen = [
        f"{name} {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{what}: {first_few(names)}"
        for what, names in (
            ("missing", missing),
            ("not of this model", foreign),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{place}: the weights do not fit config.json: {'; '.join(problems)}; get both from one model"
        )
