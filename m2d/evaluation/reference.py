"""The reference of a set distance: found, and refused before anything is measured or made if it cannot serve.

Owns every check of it that needs no pictures; `frechet` compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2d.errors import InputError
from m2d.evaluation.frechet import check_sizes
from m2d.evaluation.stories import LeftOut, VideoStory, find_stories
from m2d.folders import is_folder


def find_reference(
    path: Path, *, num_clips: int, unread: Sequence[LeftOut] = ()
) -> tuple[list[VideoStory], list[LeftOut]]:
    """Return the videos of a reference, and those that cannot be read.

    Args:
        num_clips: Number of clips of the set; the reference must have as many.
        unread: Videos of the set that cannot be read, for the message.

    Raises:
        InputError: It does not exist or holds no video, or the sets cannot be compared.
    """
    if not is_folder(path) and not path.exists():
        raise InputError(f"{path}: does not exist; give a folder of videos", argument="reference")
    try:
        # Clips are compared as a set, so their order and number do not matter.
        found, unread_reference = find_stories([path], None, needs_all_scenes=False)
    except InputError as error:
        raise InputError(str(error), argument="reference") from error
    if not found:
        reasons = _listed(unread_reference)
        raise InputError(f"none of its videos can be read:\n{reasons}", argument="reference")
    try:
        check_sizes(num_clips, sum(len(story.scenes) for story in found))
    except InputError as error:
        parts = [("the set", unread), ("the reference", unread_reference)]
        reasons = "".join(f"\nleft out of {name}:\n{_listed(each)}" for name, each in parts if each)
        raise InputError(f"{error}{reasons}", argument="reference") from error
    return found, unread_reference


def _listed(unread: Sequence[LeftOut]) -> str:
    return "\n".join(f"{each.name}: {each.reason}" for each in unread)
