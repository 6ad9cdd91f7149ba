"""The stories that a command line names: recipe files, folders of them, `-` for stdin, or prompts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from m2d.errors import InputError
from m2d.folders import is_folder
from m2d.limits import LARGEST_SEED

if TYPE_CHECKING:
    from m2d.recipe.loader import Loaded
    from m2d.recipe.schema import Recipe
    from m2d.recipe.settings import Setting

STDIN = "-"
SUFFIXES = (".yaml", ".yml")
MOST_NUMBERS = 1000


def stories_of(
    paths: Sequence[Path], prompts: Sequence[str], settings: Sequence[Setting]
) -> list[Callable[[], Loaded[Recipe]]]:
    """Return a loader for the story of `prompts`, or for every story that `paths` name, in their order.

    A folder's stories are sorted by name.

    Raises:
        InputError: A folder holds no recipe, or a path is named twice.
    """
    if prompts:
        from m2d.recipe.prompts import story_of_prompts

        return [partial(story_of_prompts, prompts, settings=settings)]
    twice = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if twice is not None:
        why = "stdin can be read once" if str(twice) == STDIN else "name each story once"
        raise InputError(f"STORY {twice}: given twice; {why}")
    found: list[Path] = []
    for path in paths:
        found += _in_folder(path) if is_folder(path) else [path]
    # A file that its folder names, too, is one story.
    return [partial(_load, path, settings) for path in dict.fromkeys(found)]


def _in_folder(folder: Path) -> list[Path]:
    try:
        found = sorted(
            path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
        )
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(f"{folder}: holds no recipe; a folder of stories holds .yaml files")
    return found


def _load(path: Path, settings: Sequence[Setting]) -> Loaded[Recipe]:
    from m2d.recipe.loader import load_with_places, parse_document
    from m2d.recipe.schema import Recipe
    from m2d.recipe.text_file import MAX_BYTES, decode_text

    if str(path) != STDIN:
        return load_with_places(path, Recipe, settings=settings)
    data = b"" if sys.stdin is None else sys.stdin.buffer.read(MAX_BYTES + 1)
    return parse_document(decode_text(data, name="stdin"), Recipe, name="stdin", settings=settings)


def parse_numbers(text: str, *, option: str) -> tuple[int, ...]:
    """Parse `1-8` or `1,5,9-12`; raise InputError for anything else, and for a number given twice.

    Args:
        option: For messages, such as `--seeds`.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        words = (first, last) if dash else (first,)
        if not all(word.isascii() and word.isdigit() for word in words):
            raise _refused(option, text, "use numbers and ranges, such as 1-8 or 1,5,9-12")
        # Python reads no numbers of thousands of digits.
        if any(len(word) > len(str(LARGEST_SEED)) or int(word) > LARGEST_SEED for word in words):
            raise _refused(option, text, f"the largest number is {LARGEST_SEED}")
        start, end = int(words[0]), int(words[-1])
        if end < start or end - start >= MOST_NUMBERS or len(found) >= MOST_NUMBERS:
            why = f"a range goes upwards, and at most {MOST_NUMBERS} numbers are allowed"
            raise _refused(option, text, why)
        found += range(start, end + 1)
    if len(set(found)) < len(found):
        raise _refused(option, text, "names a number twice")
    return tuple(found)


def _refused(option: str, text: str, why: str) -> InputError:
    from m2d.recipe.places import show

    return InputError(f"{option} {show(text)}: {why}")
