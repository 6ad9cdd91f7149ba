"""Finds the folder of a model: embedded, on this disk, of a hub, or of parts from several places.

Parts from several places, and weights of a variant, become a folder of links in m2d's cache, in the layout of
any other model folder. Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from m2d.errors import CheckpointError, Remedy
from m2d.families.hub import HubModel, cached_snapshot, download, hub_model
from m2d.families.part_files import Wanted, refuse_pickles, standard_files
from m2d.families.places import OpenedFolder, linked_folder, naming_field
from m2d.folders import is_folder, with_home
from m2d.model.components import COMPONENTS, INDEX_FILE
from m2d.model.folder import explain_missing_weights, find_file, read_header, read_json
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

    def part(self, name: str) -> Path:
        """Return the folder of a part: the one of its name, or the place itself where it lies alone."""
        config = f"{name}/{COMPONENTS[name].config}"
        return (self.folder / self.files.get(config, config)).parent


def open_folder(choice: ModelChoice, downloads: Reporter | None = None) -> OpenedFolder:
    """Open the folder of a model; files that this machine lacks are downloaded.

    Args:
        downloads: Receives the progress of downloads; None downloads nothing.

    Raises:
        CheckpointError: There is no such model, part, variant or revision here or on the hub.
        HubUnavailable: The hub does not answer.
        OutputError: The disk is too full for a download.
    """
    parts = choice.parts
    files = _single_files(parts)
    wanted = [
        Wanted(name=name, has_weights=name not in files)
        for name in COMPONENTS
        if name not in parts or name in files
    ]
    base = _place(choice.model, wanted, choice, downloads, revision=choice.revision)
    if not parts and base.is_standard:
        return OpenedFolder(path=base.folder)
    _explain_missing(base, wanted)
    links = {target: find_file(base.folder, name) for target, name in base.files.items()}
    places = {name: base.part(name) for name in COMPONENTS} | files
    for name, path in files.items():
        links[f"{name}/{COMPONENTS[name].stem}.safetensors"] = path
    for name in parts.keys() - files.keys():
        with naming_field(name):
            part = _place(parts[name], [Wanted(name=name)], choice, downloads, field=name)
            config = COMPONENTS[name].config
            if f"{name}/{config}" not in part.files:
                raise CheckpointError(f"{part.folder}: neither {name}/{config} nor {config} is there")
            _explain_missing(part, [Wanted(name=name)])
            taken = {
                target: find_file(part.folder, source)
                for target, source in part.files.items()
                if target.startswith(f"{name}/")
            }
            if name == "transformer":
                # Says how a transformer was trained.
                links.pop(SETTINGS_FILE, None)
                if SETTINGS_FILE in part.files:
                    taken[SETTINGS_FILE] = find_file(part.folder, SETTINGS_FILE)
        links |= taken
        places[name] = part.part(name)
    return linked_folder(links, name=choice.model, places=places, fields=parts.keys())


def builtin_folder(name: str) -> Path | None:
    """Return where a model that comes with m2d has to be; None for any other."""
    folder = BUILTIN_MODELS.get(name)
    return Path(__file__).parents[1] / "puppet" / folder if folder else None


def part_folder(model: str, downloads: Reporter | None = None) -> Path:
    """Return a folder that is on this machine, complete or not, or open a model as `open_folder` does.

    Training needs single parts, and starts from its own run folders, too.
    """
    path = builtin_folder(model) or with_home(model)
    if is_folder(path):
        return path
    return open_folder(ModelChoice.model_construct(model=model), downloads).path


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
        is_path = text.startswith((".", "/", "~"))
        advice = (
            "a name that begins with '.', '/' or '~' is a folder on this machine, never a model of a hub"
            if is_path
            else "give a folder in diffusers' layout, the id of a model on a hub, or "
            f"{' or '.join(BUILTIN_MODELS)}"
        )
        raise CheckpointError(f"{_named(field, text)}: there is no such folder; {advice}")
    if hub is not None:
        return _hub_place(hub, wanted, choice.variant, downloads, field=field)
    assert folder is not None
    if revision:
        raise CheckpointError(f"revision {revision!r}: {text} is no model of a hub and has no revisions")
    return _Place(folder=folder, files=_files(folder, wanted, choice.variant))


def _named(field: str, text: str) -> str:
    """Return a place for the start of a message; that of a part has its field before it."""
    return f"model {text!r}" if field == "model" else repr(text)


def _explain_missing(place: _Place, wanted: Sequence[Wanted]) -> None:
    """Refuse a part whose weights are only pickles or of a variant, of which no link is made."""
    for part in wanted:
        stem = COMPONENTS[part.name].stem
        prefix = f"{part.name}/{stem}"
        if stem and part.has_weights and not any(name.startswith(prefix) for name in place.files):
            explain_missing_weights(place.part(part.name), stem)


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
            f"{_named(field, str(hub))}: there is no such folder, and the model of the hub {state}",
            remedy=Remedy.GET_MODEL,
        )
    owner = hub.repository.partition("/")[0]
    if os.path.lexists(owner):
        raise CheckpointError(
            f"{_named(field, str(hub))}: there is no such folder, though {owner} is here, so this may be a "
            f"misspelt path; to download the hub's model of this name, work in a folder without {owner}"
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
        _refuse_closed(path)
        return None
    if is_model and not (path / INDEX_FILE).exists():
        raise CheckpointError(
            f"{path}: not a model folder, without {INDEX_FILE}; give the one that holds transformer/ and vae/"
        )
    return path


def _refuse_closed(path: Path) -> None:
    """Reject a path within a folder that this user may not enter: whether it is there cannot be known."""
    try:
        path.stat()
    except PermissionError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except OSError:
        return


def _single_files(parts: Mapping[str, str]) -> dict[str, Path]:
    """Return the parts that are single files of weights."""
    found = {}
    for name, place in parts.items():
        with naming_field(name):
            path = _safetensors(place)
        if path is not None:
            found[name] = path
    return found


def _safetensors(text: str) -> Path | None:
    """Return a single file of weights, whose config is that of the model; None for anything else."""
    path = with_home(text)
    if "\0" in text or not text.endswith(".safetensors") or is_folder(path):
        return None
    # Its form is checked here, where the message can name the file and not the link to it.
    read_header(path)
    return path
