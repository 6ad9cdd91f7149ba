"""The reference of a set distance: found, and refused before anything is measured or made if it cannot serve.

Owns every check of it that needs no pictures; `frechet` compares.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from m2d.data.dataset_text import first_few
from m2d.errors import InputError
from m2d.evaluation.frechet import check_sizes
from m2d.evaluation.stories import LeftOut, VideoStory, find_stories
from m2d.files import sha256_file
from m2d.folders import is_folder
from m2d.video.printable import counted, printable


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


def repeated_files(stories: Sequence[VideoStory], reference: Sequence[VideoStory]) -> str:
    """Return a warning if the reference holds files of the set; empty if no file has the same bytes."""
    own, known = (sorted({film for story in each for film in story.films}) for each in (stories, reference))
    sizes = {film.stat().st_size for film in own} & {film.stat().st_size for film in known}
    digests = [
        {film: sha256_file(film) for film in films if film.stat().st_size in sizes} for films in (own, known)
    ]
    shared = {*digests[0].values()} & {*digests[1].values()}
    repeated = [film for film, digest in digests[1].items() if digest in shared]
    if not repeated:
        return ""
    names = first_few([printable(film.name) for film in repeated])
    return (
        f"reference: {len(repeated)} of {counted(len(known), 'file')} are also in the set, which is compared"
        f" with itself there: {names}"
    )


def copied_files(stories: Sequence[VideoStory]) -> str:
    """Return a warning if files of the set have the bytes of others; empty if none has."""
    films = sorted({film for story in stories for film in story.films})
    num_of_size = Counter(film.stat().st_size for film in films)
    seen: set[str] = set()
    copies = []
    for film in films:
        if num_of_size[film.stat().st_size] > 1:
            digest = sha256_file(film)
            copies += [film] if digest in seen else []
            seen.add(digest)
    if not copies:
        return ""
    names = first_few([printable(film.name) for film in copies])
    among = counted(len(films), "file")
    return f"{len(copies)} of {among} are copies of others, so the intervals are too narrow: {names}"


def _listed(unread: Sequence[LeftOut]) -> str:
    return "\n".join(f"{each.name}: {each.reason}" for each in unread)
