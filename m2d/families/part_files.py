"""Which files of a model repository or folder a part needs, from their names alone. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from m2d.errors import CheckpointError
from m2d.model.components import COMPONENTS, INDEX_FILE
from m2d.model.folder import PICKLED, first_few
from m2d.model.settings import SETTINGS_FILE

_TEXTS = (".json", ".model", ".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A part that is taken from a place.

    Attributes:
        name: Such as `transformer`.
        has_weights: Whether its weights are taken, too, and not its config alone.
    """

    name: str
    has_weights: bool = True


def standard_files(
    names: Collection[str], wanted: Sequence[Wanted], *, variant: str | None = None
) -> dict[str, str]:
    """Map the standard names of a model's files to the names that they have in a place.

    Args:
        names: All files of the place, relative to it, with `/`.
        wanted: A part lies in a folder of its name, or alone in the place itself.
        variant: Weights of this variant are taken where a part has them.

    Returns:
        Standard name, such as `vae/config.json`, to the name in `names`. Files that are not there are left
        out; the first part's place has `m2d.json`, too.

    Raises:
        CheckpointError: No part has the variant.
    """
    found = {name: name for name in (INDEX_FILE, SETTINGS_FILE) if name in names}
    has_variant = False
    for part in wanted:
        component = COMPONENTS[part.name]
        is_alone = component.config in names and f"{part.name}/{component.config}" not in names
        place = "" if is_alone else f"{part.name}/"
        for name in names:
            if _is_text(name, place) and (not component.stem or name == f"{place}{component.config}"):
                found[f"{part.name}/{PurePosixPath(name).name}"] = name
        if not component.stem or not part.has_weights:
            continue
        stem = f"{place}{component.stem}"
        weights = _weights(names, stem, variant) if variant else {}
        has_variant = has_variant or bool(weights)
        weights = weights or _weights(names, stem, None)
        found |= {f"{part.name}/{target}": name for target, name in weights.items()}
    if variant and not has_variant:
        known = first_few(_all_variants(names, wanted)) or "none"
        raise CheckpointError(f"variant {variant!r}: the model has no such weights; its variants: {known}")
    return found


def _is_text(name: str, place: str) -> bool:
    rest = name.removeprefix(place)
    return name.startswith(place) and "/" not in rest and rest.endswith(_TEXTS)


def _weights(names: Collection[str], stem: str, variant: str | None) -> dict[str, str]:
    """Map the standard names of a part's weights, one file or an index and shards, to their real names."""
    base = PurePosixPath(stem).name
    middle = f".{variant}" if variant else ""
    single = f"{stem}{middle}.safetensors"
    if single in names:
        return {f"{base}.safetensors": single}
    index = f"{stem}.safetensors.index{middle}.json"
    if index not in names:
        return {}
    number = r"-\d+-of-\d+"
    kind = re.escape(middle)
    shard = re.compile(rf"{re.escape(stem)}({kind}{number}|{number}{kind})\.safetensors")
    shards = {PurePosixPath(name).name: name for name in names if shard.fullmatch(name)}
    return {f"{base}.safetensors.index.json": index} | shards


def _variants(names: Iterable[str], stem: str) -> list[str]:
    found = (
        re.fullmatch(rf"{re.escape(stem)}\.([\w-]+?)(-\d+-of-\d+)?\.safetensors", name) for name in names
    )
    return [match[1] for match in found if match is not None]


def _all_variants(names: Collection[str], wanted: Iterable[Wanted]) -> set[str]:
    stems = [(part.name, COMPONENTS[part.name].stem) for part in wanted]
    return {
        variant
        for name, stem in stems
        if stem
        for place in (f"{name}/{stem}", stem)
        for variant in _variants(names, place)
    }


def refuse_pickles(names: Iterable[str], files: Mapping[str, str], wanted: Iterable[Wanted]) -> None:
    """Refuse a part whose weights are pickles alone.

    Args:
        files: From `standard_files`.

    Raises:
        CheckpointError: It names the first pickle.
    """
    lacking = [
        part.name
        for part in wanted
        if part.has_weights
        and COMPONENTS[part.name].stem
        and not any(name.startswith(f"{part.name}/") and name.endswith(".safetensors") for name in files)
    ]
    pickled = sorted(name for name in names if name.endswith(PICKLED))
    if lacking and pickled:
        raise CheckpointError(
            f"{pickled[0]}: a pickle, which m2d never opens because it can run code, and no safetensors file "
            "is beside it; convert it to safetensors"
        )
