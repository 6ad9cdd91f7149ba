"""The folder of a data set: what it was made from and with, in `data.json`.

Owns the file; stages own theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from m2d.curation.settings import DataSettings
from m2d.curation.stage_file import FOLDER as STAGES
from m2d.errors import DatasetError
from m2d.files import remove_file, write_json
from m2d.reading import parse_json, read_text
from m2d.recipe.loader import fit_document, load_document
from m2d.recipe.places import Places
from m2d.recipe.settings import Setting

FILE = "data.json"
_VERSION = 1
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """A data set that is being built: `films` is a folder of films, or one film."""

    folder: Path
    films: Path
    settings: DataSettings

    def film(self, name: str) -> Path:
        """Return the file of a film."""
        return self.films if self.films.is_file() else self.films / name

    @property
    def films_folder(self) -> Path:
        """The folder that names of films start from."""
        return self.films.parent if self.films.is_file() else self.films


def open_data_set(
    folder: Path,
    *,
    films: Path | None = None,
    config: Path | None = None,
    settings: Sequence[Setting] = (),
) -> DataSet:
    """Open a data set, or describe a new one; nothing is written.

    Args:
        films: Needed for a new one; later ones replace it.
        config: YAML file with settings; None takes those of an earlier run, or the defaults.
        settings: Fields that replace them.

    Raises:
        DatasetError: There is none and no films are given, or its file was damaged.
        RecipeError: A setting is wrong.
    """
    path = folder / FILE
    kept: dict[str, object] = {}
    if path.is_file():
        try:
            found = parse_json(read_text(path, limit_bytes=_MOST_BYTES))
            if found["m2d"] != _VERSION:
                raise ValueError(f"version {found['m2d']!r}")
            earlier = folder / str(found["films"])
            # Lists of JSON are the tuples of the settings.
            kept = DataSettings.model_validate(found.get("settings", {})).model_dump()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(("settings", *map(str, first["loc"])))
            raise DatasetError(f"{path}: {place}: {first['msg']}; remove it, and build again") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path}: cannot be read ({error}); remove it, and build again") from error
        films = films or earlier
    if films is None:
        raise DatasetError(f"{folder}: holds no data set; build one from a folder of films")
    if config is not None:
        chosen = load_document(config, DataSettings, settings=settings)
    else:
        chosen = fit_document(kept, DataSettings, places=Places(path="settings"), settings=settings).value
    return DataSet(folder=folder, films=films, settings=chosen)


@contextmanager
def saved(data: DataSet) -> Iterator[None]:
    """Write `data.json` for the block, without absolute paths and keys.

    A new one is removed when the block is refused before a stage wrote anything: its settings would be those
    of the next run.
    """
    path = data.folder / FILE
    is_new = not path.exists()
    _save(data)
    try:
        yield
    except DatasetError:
        if is_new and not (data.folder / STAGES).exists():
            remove_file(path)
        raise


def _save(data: DataSet) -> None:
    document = {
        "m2d": _VERSION,
        "films": os.path.relpath(data.films, data.folder).replace(os.sep, "/"),
        "settings": data.settings.model_dump(mode="json"),
    }
    write_json(data.folder / FILE, document)
