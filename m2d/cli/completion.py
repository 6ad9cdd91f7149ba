"""What the Tab key offers for the values of arguments and options; imports no library that takes long.

Names of commands and options are Typer's. A folder ends in a slash; where it is the only match, its contents
are offered, too, so that the shell does not close the word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from m2d.folders import with_home
from m2d.video.formats import VIDEO_SUFFIXES

STORIES = (".yaml", ".yml")
_MOST_ENTRIES = 500


def recipe_files(incomplete: str) -> list[str]:
    """Offer recipes and folders."""
    return _files(incomplete, STORIES)


def film_files(incomplete: str) -> list[str]:
    """Offer videos and folders."""
    return _files(incomplete, VIDEO_SUFFIXES)


def models(incomplete: str) -> list[str]:
    """Offer the embedded models, and folders."""
    from m2d.families.opening import BUILTIN_MODELS

    return [*(name for name in BUILTIN_MODELS if name.startswith(incomplete)), *_files(incomplete, ())]


def backends(incomplete: str) -> list[str]:
    """Offer the installed backends."""
    from m2d.registry import backend_names

    return [name for name in backend_names() if name.startswith(incomplete)]


def one_of(*values: str) -> Callable[[str], list[str]]:
    """Return a completion that offers fixed values."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def fields(incomplete: str) -> list[str]:
    """Offer the fields of a story's recipe, for `--set`."""
    from m2d.recipe.schema import Recipe
    from m2d.recipe.suggestions import field_paths

    return [f"{path}=" for path in field_paths(Recipe) if path.startswith(incomplete)]


def _files(incomplete: str, suffixes: Sequence[str]) -> list[str]:
    """Offer folders, and files with one of the suffixes, whose path starts with `incomplete`."""
    found = list(_matching(incomplete, suffixes))
    if len(found) == 1 and found[0].endswith("/"):
        found += _matching(found[0], suffixes)
    return found


def _matching(incomplete: str, suffixes: Sequence[str]) -> Iterator[str]:
    before, slash, start = incomplete.rpartition("/")
    try:
        entries = sorted(with_home(f"{before}{slash}" or ".").iterdir())[:_MOST_ENTRIES]
    except OSError:
        return
    for entry in entries:
        if not entry.name.startswith(start) or (entry.name.startswith(".") and not start.startswith(".")):
            continue
        if entry.is_dir():
            # A run folder belongs to its film.
            if entry.suffix != ".m2d":
                yield f"{before}{slash}{entry.name}/"
        elif entry.suffix.lower() in suffixes:
            yield f"{before}{slash}{entry.name}"
