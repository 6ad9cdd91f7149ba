"""Finds the folder of a model: embedded, on this disk, of a hub, or of parts from several places.

Parts from several places, and weights of a variant, become a folder of links in m2d's cache, in the layout of
any other model folder. Imports no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m2d import disk
from m2d.errors import CheckpointError, OutputError, Remedy
from m2d.families.hub import HubModel, cached_snapshot, download, hub_model
from m2d.families.part_files import Wanted, refuse_pickles, standard_files
from m2d.files import part_name
from m2d.folders import is_folder, make_folder, removed_on_error, with_home
from m2d.model.components import COMPONENTS, INDEX_FILE
from m2d.model.folder import find_file, linked_models, read_header, read_json
from m2d.model.settings import SETTINGS_FILE
from m2d.progress import Reporter
from m2d.recipe.fields import DEFAULT_MODEL
from m2d.recipe.model_choice import ModelChoice

BUILTIN_PUPPET = "builtin:puppet"
BUILTIN_MODELS = {DEFAULT_MODEL: "weights-large", BUILTIN_PUPPET: "weights"}
"""Models that come with m2d, and their folders in `m2d/puppet`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """A folder, and which of its files are taken under which names.

    Attributes:
        files: Standard name, such as `vae/config.json`, to the name in the folder.
    """

    folder: Path
    files: Mapping[str, str]

    @property
    def is_standard(self) -> bool:
        """Whether all files have their standard names."""
        return all(target == name for target, name in self.files.items())


def open_folder(choice: ModelChoice, downloads: Reporter | None = None) -> Path:
    """Return the folder of a model; files that this machine lacks are downloaded.

    Args:
        downloads: Receives the progress of downloads; None downloads nothing.

    Raises:
        CheckpointError: There is no such model, part, variant or revision here or on the hub.
        HubUnavailable: The hub does not answer.
        OutputError: The disk is too full for a download.
    """
    parts = choice.parts
    files = {name: path for name, place in parts.items() if (path := _safetensors(place)) is not None}
    wanted = [
        Wanted(name=name, has_weights=name not in files)
        for name in COMPONENTS
        if name not in parts or name in files
    ]
    base = _place(choice.model, wanted, choice, downloads, revision=choice.revision)
    if not parts and base.is_standard:
        return base.folder
    links = {target: find_file(base.folder, name) for target, name in base.files.items()}
    for name, place in parts.items():
        if name in files:
            links[f"{name}/{COMPONENTS[name].stem}.safetensors"] = files[name]
            continue
        part = _place(place, [Wanted(name=name)], choice, downloads, field=name)
        if name == "transformer":
            # Says how a transformer was trained.
            links.pop(SETTINGS_FILE, None)
        taken = (f"{name}/", SETTINGS_FILE) if name == "transformer" else f"{name}/"
        links |= {
            target: find_file(part.folder, source)
            for target, source in part.files.items()
            if target.startswith(taken)
        }
    return _linked(links, label=Path(choice.model.removeprefix("builtin:")).name)


def builtin_folder(name: str) -> Path | None:
    """Return where a model that comes with m2d has to be; None for any other."""
    folder = BUILTIN_MODELS.get(name)
    return Path(__file__).parents[1] / "puppet" / folder if folder else None


def part_folder(model: str, downloads: Reporter | None = None) -> Path:
    """Return a folder that is on this machine, complete or not, or open a model as `open_folder` does.

    Training needs single parts, and starts from its own run folders, too.
    """
    path = builtin_folder(model) or with_home(model)
    return path if is_folder(path) else open_folder(ModelChoice.model_construct(model=model), downloads)


def _place(
    text: str,
    wanted: Sequence[Wanted],
    choice: ModelChoice,
    downloads: Reporter | None,
    *,
    field: str = "model",
    revision: str | None = None,
) -> _Place:
    """Find a model or a part: embedded, a folder, or of a hub."""
    folder = _local(text, is_model=field == "model")
    hub = None if folder else hub_model(text, revision)
    if folder is None and hub is None:
        raise CheckpointError(
            f"{field} {text!r}: there is no such folder; give a folder in diffusers' layout, the id of a "
            f"model on a hub, or {' or '.join(BUILTIN_MODELS)}"
        )
    if hub is not None:
        return _hub_place(hub, wanted, choice.variant, downloads, field=field)
    assert folder is not None
    if revision:
        raise CheckpointError(f"revision {revision!r}: {text} is no model of a hub and has no revisions")
    return _Place(folder=folder, files=_files(folder, wanted, choice.variant))


def _hub_place(
    hub: HubModel, wanted: Sequence[Wanted], variant: str | None, downloads: Reporter | None, *, field: str
) -> _Place:
    folder = cached_snapshot(hub)
    missing = None if folder is None else _missing(folder, wanted, variant)
    if folder is not None and not missing:
        return _Place(folder=folder, files=_files(folder, wanted, variant))
    if downloads is None:
        state = "is not here" if folder is None else f"was not downloaded completely: {missing} is missing"
        raise CheckpointError(
            f"{field} {str(hub)!r}: there is no such folder, and the model of the hub {state}",
            remedy=Remedy.GET_MODEL,
        )
    owner = hub.repository.partition("/")[0]
    if os.path.lexists(owner):
        raise CheckpointError(
            f"{field} {str(hub)!r}: there is no such folder, though {owner} is here; a model of the hub is "
            "downloaded in a working folder without that name"
        )
    folder = download(hub, partial(_chosen, wanted=wanted, variant=variant), downloads)
    return _Place(folder=folder, files=_files(folder, wanted, variant))


def _chosen(sizes: Mapping[str, int], *, wanted: Sequence[Wanted], variant: str | None) -> list[str]:
    """Choose the files of a repository that are downloaded."""
    files = standard_files(sizes.keys(), wanted, variant=variant)
    refuse_pickles(sizes.keys(), files, wanted)
    return list(files.values())


def _missing(folder: Path, wanted: Sequence[Wanted], variant: str | None) -> str | None:
    """Return a file that an interrupted download has left out; None when all are there."""
    try:
        files = _files(folder, wanted, variant)
    except CheckpointError:
        # The hub may have the variant.
        return f"variant {variant}"
    for part in wanted:
        component = COMPONENTS[part.name]
        config, single = f"{part.name}/{component.config}", f"{part.name}/{component.stem}.safetensors"
        if config not in files:
            return config
        if not component.stem or not part.has_weights or single in files:
            continue
        index = f"{single}.index.json"
        if index not in files:
            return single
        shards = read_json(folder, files[index]).get("weight_map")
        for shard in sorted(set(shards.values() if isinstance(shards, dict) else ())):
            if f"{part.name}/{shard}" not in files:
                return f"{part.name}/{shard}"
    return None


def _files(folder: Path, wanted: Sequence[Wanted], variant: str | None) -> dict[str, str]:
    # One level below the folder is as deep as parts lie.
    names = [
        path.relative_to(folder).as_posix()
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
        if not path.is_dir()
    ]
    try:
        return standard_files(names, wanted, variant=variant)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error


def _local(text: str, *, is_model: bool) -> Path | None:
    """Return an embedded model's folder, or a folder on this disk; None where there is none."""
    path = builtin_folder(text)
    if path is not None:
        if not path.is_dir():
            raise CheckpointError(f"model {text}: this installation of m2d has no {path}; install it again")
        return path
    if text.startswith("builtin:"):
        raise CheckpointError(
            f"model {text!r} is unknown; the built-in models are {', '.join(BUILTIN_MODELS)}"
        )
    # pathlib's own functions raise on names that the system rejects.
    path = with_home(text)
    if "\0" in text:
        return None
    if os.path.isfile(path):  # noqa: PTH113
        advice = (
            "give the folder of the model that it belongs to, and this file as the transformer"
            if is_model
            else "of weights, only safetensors files are read"
        )
        raise CheckpointError(f"{path}: a file, where a model folder is needed; {advice}")
    if not is_folder(path):
        return None
    if is_model and not (path / INDEX_FILE).exists():
        raise CheckpointError(
            f"{path}: not a model folder, without {INDEX_FILE}; give the one that holds transformer/ and vae/"
        )
    return path


def _safetensors(text: str) -> Path | None:
    """Return a single file of weights, whose config is that of the model; None for anything else."""
    path = with_home(text)
    if "\0" in text or not text.endswith(".safetensors") or is_folder(path):
        return None
    # Its form is checked here, where the message can name the file and not the link to it.
    read_header(path)
    return path.resolve()


def _linked(links: Mapping[str, Path], *, label: str) -> Path:
    """Return a folder in which every file is a link, making it if it is not there."""
    targets = {name: path.resolve() for name, path in sorted(links.items())}
    text = "\n".join(f"{name} {path}" for name, path in targets.items())
    folder = linked_models() / f"{label}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    make_folder(folder.parent)
    part = part_name(folder)
    try:
        with removed_on_error(part), disk.output_errors(folder):
            for name, target in targets.items():
                (part / name).parent.mkdir(exist_ok=True)
                (part / name).symlink_to(target)
            part.rename(folder)
    except OutputError:
        # Another process may have been faster.
        if not folder.is_dir():
            raise
    return folder
