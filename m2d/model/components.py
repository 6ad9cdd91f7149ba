"""The sub-folders of a model folder: their names, files and allowed classes, and whether they are complete.

Owns the allowlist of class names; nothing in a folder can name any other code. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d.errors import CheckpointError
from m2d.model.folder import find_file, find_weights, first_few, read_json

INDEX_FILE = "model_index.json"
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One sub-folder of a model folder.

    Attributes:
        config: Its config file.
        stem: Its weights' file name before `.safetensors`; empty when it has no weights.
        classes: Class names that its config or `model_index.json` may give.
    """

    config: str
    stem: str
    classes: tuple[str, ...]


COMPONENTS: Mapping[str, Component] = {
    "transformer": Component(
        config="config.json",
        stem="diffusion_pytorch_model",
        classes=("CogVideoXTransformer3DModel", "MultiPromptCogVideoXTransformer3DModel", "SceneTransformer"),
    ),
    "vae": Component(
        config="config.json", stem="diffusion_pytorch_model", classes=("AutoencoderKLCogVideoX",)
    ),
    "text_encoder": Component(config="config.json", stem="model", classes=("T5EncoderModel",)),
    "tokenizer": Component(
        config="tokenizer_config.json",
        stem="",
        classes=("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    ),
    "scheduler": Component(
        config="scheduler_config.json",
        stem="",
        classes=(
            "CogVideoXDDIMScheduler",
            "CogVideoXDPMScheduler",
            "DDIMScheduler",
            "DPMSolverMultistepScheduler",
            "EulerDiscreteScheduler",
            "UniPCMultistepScheduler",
        ),
    ),
}


def check_components(path: Path, names: Iterable[str]) -> None:
    """Make sure that these sub-folders of a model folder are complete and of a supported class.

    Raises:
        CheckpointError: Every missing or bad file is named, one a line.
    """
    problems: list[str] = []
    if (path / INDEX_FILE).exists():
        with _collecting(problems):
            _check_index(path)
    for name in names:
        if not (path / name).is_dir():
            problems.append(f"{path / name}: missing; the model folder is incomplete, get it again")
            continue
        for check in (_check_class, _check_files):
            with _collecting(problems):
                check(path, name)
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


def _check_index(path: Path) -> None:
    wrong = []
    for name, entry in read_json(path, INDEX_FILE).items():
        class_name = entry[-1] if isinstance(entry, list) and entry else None
        if name.startswith("_") or class_name is None:
            continue
        if name not in COMPONENTS or class_name not in COMPONENTS[name].classes:
            wrong.append(f"{name} ({class_name})")
    if wrong:
        raise CheckpointError(
            f"{path / INDEX_FILE}: unsupported: {first_few(wrong)}; m2d runs CogVideoX text-to-video models"
        )


def _check_class(path: Path, name: str) -> None:
    component = COMPONENTS[name]
    if name == "tokenizer" and not (path / name / component.config).exists():
        return
    config = read_config(path, name)
    given = {"text_encoder": config.get("architectures"), "tokenizer": config.get("tokenizer_class")}
    found = given.get(name, config.get("_class_name"))
    found = found[0] if isinstance(found, list) and len(found) == 1 else found
    place = path / name / component.config
    if found not in component.classes:
        allowed = ", ".join(component.classes)
        raise CheckpointError(f"{place}: class {found!r} is not supported; allowed: {allowed}")
    if config.get("quantization_config") is not None:
        raise CheckpointError(f"{place}: quantized weights are not supported; use full ones")


def _check_files(path: Path, name: str) -> None:
    if name == "tokenizer":
        tokenizer_file(path)
    elif COMPONENTS[name].stem:
        find_weights(path, name, COMPONENTS[name].stem)


@contextmanager
def _collecting(problems: list[str]) -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        problems.append(str(error))
