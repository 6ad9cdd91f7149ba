"""Read a dataset's description into shot groups: a file in one of three formats, or a folder of pairs.

Owns the choice of the format and the file's limits; each format has its own module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from m2d.data.csv_format import read_csv
from m2d.data.dataset_text import DatasetText, Problems, Shot, ShotGroup
from m2d.data.folder_format import read_folder
from m2d.data.json_format import read_json
from m2d.data.jsonl_format import read_jsonl
from m2d.data.video_path import VideoPaths
from m2d.errors import DatasetError
from m2d.garbage import no_collection
from m2d.reading import UnreadableFile, read_text
from m2d.recipe.places import forbidden_character, name_character

Format = Literal["csv", "json", "jsonl"]
DESCRIPTIONS = ("sft.json", "pretrain.csv", "stories.jsonl")
_MOST_BYTES = 1 << 28
_READERS: dict[str, Callable[[DatasetText], list[ShotGroup]]] = {
    "csv": read_csv,
    "json": read_json,
    "jsonl": read_jsonl,
}


@no_collection()
def read_groups(
    path: Path,
    *,
    file_format: Format | None,
    root: Path | None,
    caption_field: str,
    warn: Callable[[str], None] = lambda _: None,
) -> list[ShotGroup]:
    """Read a dataset's description; videos must exist but are not opened.

    Args:
        path: `pretrain.csv`, `sft.json`, our JSON Lines, or a folder that holds one of these under the name
            that m2d writes, or videos with their captions.
        file_format: None chooses by the file's ending.
        root: Folder that relative paths start from; None is the description's folder.
        warn: Receives what is left out of a folder.

    Raises:
        DatasetError: The file cannot be read, or all problems in it with their places.
    """
    if path.is_dir():
        described = _described_in(path)
        if described is None:
            groups, problems = read_folder(path, warn=warn), Problems()
            _check_characters(groups, problems, caption_field="caption")
            problems.refuse()
            return groups
        path = described
    chosen = file_format or path.suffix.lower().removeprefix(".")
    if chosen not in _READERS:
        if not path.exists():
            raise DatasetError(f"{path}: no such file or folder")
        raise DatasetError(
            f"{path}: no format has the ending {path.suffix!r}; set data.format to csv, json or jsonl, "
            "or give the folder of the videos"
        )
    dataset = DatasetText(
        text=_read_text(path),
        name=str(path),
        paths=VideoPaths(root=path.parent if root is None else root),
        caption_field=caption_field,
    )
    groups = _READERS[chosen](dataset)
    _check_characters(groups, dataset.problems, caption_field=caption_field)
    dataset.problems.refuse()
    if not groups:
        raise DatasetError(f"{path}: holds no shot; give a dataset with at least one")
    return groups


def _described_in(folder: Path) -> Path | None:
    found = [folder / name for name in DESCRIPTIONS if (folder / name).is_file()]
    if len(found) > 1:
        names = ", ".join(map(str, found))
        raise DatasetError(f"{folder}: holds several descriptions of a dataset; give one of {names}")
    return found[0] if found else None


def _check_characters(groups: Sequence[ShotGroup], problems: Problems, *, caption_field: str) -> None:
    """Record captions with characters that no recipe may hold: no prompt can ask for them."""
    for shot in shots_of(groups):
        found = forbidden_character(shot.caption)
        if found is not None:
            problems.add(
                shot.place, f"{caption_field}: forbidden character {name_character(found)}; remove it"
            )


def shots_of(groups: Sequence[ShotGroup]) -> list[Shot]:
    """Return all shots in order."""
    return [shot for group in groups for shot in group.shots]


def _read_text(path: Path) -> str:
    try:
        text = read_text(path, limit_bytes=_MOST_BYTES, encoding="utf-8-sig")
        return text.replace("\r\n", "\n").replace("\r", "\n")
    except UnreadableFile as error:
        raise DatasetError(f"{path}: {error.strerror}; give a CSV, JSON or JSONL file") from error
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: does not exist; give a folder or a CSV, JSON or JSONL file") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error
