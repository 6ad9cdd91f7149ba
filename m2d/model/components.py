"""The sub-folders of a model folder: their names, files and allowed classes, and whether they are complete.

A folder can name no code outside the class names that the caller allows. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError
from m2d.model.config_bounds import config_problems, least_parameters, table_values
from m2d.model.folder import StoredTensor, find_file, find_weights, first_few, read_json

INDEX_FILE = "model_index.json"
PIPELINE = "pipeline"
"""Beside the components, the name for all of a folder, whose class is in `model_index.json`."""
_SMALL_TABLE, _LARGEST_TABLE_PER_PARAMETER = 1 << 24, 4
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One sub-folder of a model folder.

    Attributes:
        stem: Its weights' file name before `.safetensors`; empty when it has no weights.
    """

    config: str
    stem: str = ""


COMPONENTS: Mapping[str, Component] = {
    "transformer": Component(config="config.json", stem="diffusion_pytorch_model"),
    "vae": Component(config="config.json", stem="diffusion_pytorch_model"),
    "text_encoder": Component(config="config.json", stem="model"),
    "tokenizer": Component(config="tokenizer_config.json"),
    "scheduler": Component(config="scheduler_config.json"),
}
"""The sub-folders of a model folder in diffusers' layout."""


def check_components(path: Path, names: Iterable[str], classes: Mapping[str, tuple[str, ...]]) -> None:
    """Make sure that sub-folders of a model folder are complete and of a supported class.

    Args:
        classes: Component, or `PIPELINE`, to the class names that its config or `model_index.json` may give.

    Raises:
        CheckpointError: Every missing or bad file is named, one a line.
    """
    problems: list[str] = []
    if (path / INDEX_FILE).exists():
        with _collecting(problems):
            _check_index(path, classes)
    for name in names:
        if not (path / name).is_dir():
            problems.append(f"{path / name}: missing; the model folder is incomplete, get it again")
            continue
        with _collecting(problems):
            _check_class(path, name, classes[name])
        with _collecting(problems):
            _check_files(path, name)
    if problems:
        raise CheckpointError("\n".join(problems))


def read_config(path: Path, name: str) -> dict[str, Any]:
    """Read a component's config; see `m2d.model.folder.read_json`."""
    return read_json(path, f"{name}/{COMPONENTS[name].config}")


def tokenizer_file(path: Path) -> Path:
    """Find the tokenizer of a model folder: `tokenizer.json` before `spiece.model`.

    Raises:
        CheckpointError: Neither is there.
    """
    for name in TOKENIZER_FILES:
        if (path / "tokenizer" / name).exists():
            return find_file(path, f"tokenizer/{name}")
    raise CheckpointError(
        f"{path / 'tokenizer'}: neither {' nor '.join(TOKENIZER_FILES)} is there; get the model folder again"
    )


def _check_index(path: Path, classes: Mapping[str, tuple[str, ...]]) -> None:
    index, wrong = read_json(path, INDEX_FILE), []
    pipeline = index.get("_class_name")
    if pipeline is not None and pipeline not in classes[PIPELINE]:
        raise CheckpointError(
            f"{path / INDEX_FILE}: _class_name: {pipeline!r} is not supported; "
            f"allowed: {', '.join(classes[PIPELINE])}"
        )
    for name, entry in index.items():
        class_name = entry[-1] if isinstance(entry, list) and entry else None
        if name.startswith("_") or class_name is None:
            continue
        if class_name not in classes.get(name, ()):
            wrong.append(f"{name} ({class_name})")
    if wrong:
        raise CheckpointError(
            f"{path / INDEX_FILE}: unsupported: {first_few(wrong)}; m2d runs CogVideoX models"
        )


def class_of(path: Path, name: str) -> str | None:
    """Return the class that a component's config names; None when it names none or several."""
    config = read_config(path, name)
    given = {"text_encoder": config.get("architectures"), "tokenizer": config.get("tokenizer_class")}
    found = given.get(name, config.get("_class_name"))
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    return found if isinstance(found, str) else None


def _check_class(path: Path, name: str, classes: tuple[str, ...]) -> None:
    if name == "tokenizer" and not (path / name / COMPONENTS[name].config).exists():
        return
    place = path / name / COMPONENTS[name].config
    found = class_of(path, name)
    if found not in classes:
        raise CheckpointError(f"{place}: class {found!r} is not supported; allowed: {', '.join(classes)}")
    if read_config(path, name).get("quantization_config") is not None:
        raise CheckpointError(f"{place}: quantized weights are not supported; use full ones")


def _check_files(path: Path, name: str) -> None:
    if name == "tokenizer":
        tokenizer_file(path)
        return
    _check_bounds(path, name)
    if COMPONENTS[name].stem:
        _check_count(path, name, find_weights(path, name, COMPONENTS[name].stem))


def _check_bounds(path: Path, name: str) -> None:
    check_config(path / name / COMPONENTS[name].config, name, read_config(path, name))


def check_config(place: Path, name: str, config: object) -> None:
    """Check the numbers in a component's config.

    Args:
        place: The file that holds it, for the message.

    Raises:
        CheckpointError: One line for every entry that is out of bounds.
    """
    if not isinstance(config, dict):
        raise CheckpointError(f"{place}: has no {name}'s config")
    problems = [f"{place}: {problem}" for problem in config_problems(name, config)]
    if problems:
        raise CheckpointError("\n".join(problems))


def _check_count(path: Path, name: str, stored: Mapping[str, StoredTensor]) -> None:
    num_stored = sum(prod(tensor.shape) for tensor in stored.values())
    check_size(path / name / COMPONENTS[name].config, name, read_config(path, name), num_stored=num_stored)


def check_size(place: Path, name: str, config: Mapping[str, Any], *, num_stored: int) -> None:
    """Compare what a config needs with the weights, before a model of that size is built.

    Args:
        place: The file that holds it, for the message.
        config: Within the bounds.
        num_stored: Number of parameters of the weights.

    Raises:
        CheckpointError: The weights are far too few.
    """
    least = least_parameters(name, config)
    if least > num_stored:
        raise CheckpointError(
            f"{place}: describes a model of more than {least:,} parameters, the weights hold {num_stored:,}; "
            "get both from one model"
        )
    num_values = table_values(config) if name == "transformer" else 0
    if num_values > max(_SMALL_TABLE, _LARGEST_TABLE_PER_PARAMETER * num_stored):
        raise CheckpointError(
            f"{place}: sample_frames, sample_height and sample_width need a table of {num_values:,} "
            f"positions, far more than {num_stored:,} parameters; get both from one model"
        )


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        # Both checks of a component read its config.
        if str(error) not in problems:
            problems.append(str(error))
