"""A folder of videos, each with its caption in a text file of the same name: `a.mp4` and `a.txt`.

A pair in the folder itself is a story of one scene; the pairs in a folder below it are the scenes of one
story, in the order of their names. Owns the pairing; videos are not opened.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from m2d.data.dataset_text import Problems, Shot, ShotGroup, first_few
from m2d.errors import DatasetError
from m2d.reading import read_text
from m2d.video.formats import VIDEO_SUFFIXES
from m2d.video.printable import counted

CAPTION_SUFFIX = ".txt"
_MOST_BYTES = 1 << 20


def read_folder(folder: Path, *, warn: Callable[[str], None]) -> list[ShotGroup]:
    """Pair the videos below a folder with their captions.

    Args:
        warn: Receives the videos without a caption and the captions without a video, which are left out.

    Raises:
        DatasetError: There is no pair, or captions cannot be read; all of these with their files.
    """
    groups: list[ShotGroup] = []
    lonely_videos: list[str] = []
    lonely_captions: list[str] = []
    problems = Problems()
    for place, names in _folders(folder):
        videos = sorted((n for n in names if Path(n).suffix.lower() in VIDEO_SUFFIXES), key=_natural)
        captions = {_stem(name): name for name in names if Path(name).suffix.lower() == CAPTION_SUFFIX}
        pairs = [(place / name, captions.get(_stem(name))) for name in videos]
        paired = {_stem(name) for name in videos}
        lonely_captions += [str(place / name) for stem, name in captions.items() if stem not in paired]
        lonely_videos += [_with_hint(video, captions) for video, caption in pairs if caption is None]
        runs = _runs([_shot(video, place, caption, problems) for video, caption in pairs])
        if place == folder:
            groups += [ShotGroup(shots=(shot,), place=shot.place) for run in runs for shot in run]
        else:
            groups += [ShotGroup(shots=tuple(run), place=str(place)) for run in runs]
    problems.refuse()
    lists = [
        ("video", "without a caption in a .txt file of the same name", lonely_videos),
        ("caption", "without a video of the same name", lonely_captions),
    ]
    texts = [
        f"{counted(len(names), noun)} {without}: {first_few(names)}"
        for noun, without, names in lists
        if names
    ]
    if not groups:
        found = "; ".join(texts) or "it holds no video"
        raise DatasetError(f"{folder}: no video with a caption, such as a.mp4 with a.txt beside it; {found}")
    for text in texts:
        warn(f"{folder}: {text}; left out")
    return groups


def _folders(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder and the names of its files, without hidden ones."""
    for place, below, names in os.walk(folder):
        below[:] = sorted((name for name in below if not name.startswith(".")), key=_natural)
        yield Path(place), sorted(name for name in names if not name.startswith("."))


def _shot(video: Path, folder: Path, caption: str | None, problems: Problems) -> Shot | None:
    if caption is None:
        return None
    path = folder / caption
    try:
        text = read_text(path, limit_bytes=_MOST_BYTES, encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problems.add(str(path), f"not UTF-8 text (byte {error.start}); save it as UTF-8")
        return None
    except OSError as error:
        problems.add(str(path), f"cannot be read: {error.strerror or error}")
        return None
    return Shot(video=video, caption=" ".join(text.split()), place=str(path))


def _runs(shots: Sequence[Shot | None]) -> list[list[Shot]]:
    """Divide shots where one is missing: the scenes of a story follow each other."""
    runs: list[list[Shot]] = [[]]
    for shot in shots:
        if shot is None:
            runs.append([])
        else:
            runs[-1].append(shot)
    return [run for run in runs if run]


def _stem(name: str) -> str:
    return unicodedata.normalize("NFC", Path(name).stem).casefold()


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key that puts scene-2 before scene-10."""
    parts = re.split(r"([0-9]+)", unicodedata.normalize("NFC", name).casefold())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _with_hint(video: Path, captions: dict[str, str]) -> str:
    near = difflib.get_close_matches(_stem(video.name), captions, n=1, cutoff=0.8)
    return f"{video} (there is {captions[near[0]]})" if near else str(video)
