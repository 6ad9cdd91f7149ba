"""The list of videos that a training does not use, each with its reason: `rejected.jsonl` in the run folder.

Owns the file and the check that not too many videos are broken.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.errors import DatasetError
from m2d.files import write_bytes
from m2d.reading import read_text

FILE = "rejected.jsonl"
MOST_NAMED = 10
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class Reject:
    """One video or shot that is not used.

    Attributes:
        place: Where the dataset names it.
        is_broken: Whether the file is broken; otherwise it does not suit the recipe.
    """

    video: Path
    place: str
    reason: str
    is_broken: bool


def write_rejects(run: Path, rejects: Iterable[Reject]) -> None:
    """Write the list, even an empty one: it replaces an older list.

    Raises:
        OutputError: The file cannot be written.
    """
    lines = [
        json.dumps(
            {
                "video": str(reject.video),
                "place": reject.place,
                "kind": "broken" if reject.is_broken else "unsuitable",
                "reason": reject.reason,
            }
        )
        for reject in sorted(rejects, key=lambda reject: (reject.place, str(reject.video)))
    ]
    write_bytes(run / FILE, "".join(f"{line}\n" for line in lines).encode("ascii"))


def read_broken(run: Path) -> dict[Path, str]:
    """Return the broken videos of an earlier list, so that a resumed training skips the same ones.

    Raises:
        DatasetError: The list is corrupt.
    """
    path = run / FILE
    if not path.is_file():
        return {}
    broken = {}
    try:
        lines = read_text(path, limit_bytes=_MOST_BYTES, encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error}); remove the file to scan all videos again"
        ) from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if entry["kind"] == "broken":
                broken[Path(entry["video"])] = str(entry["reason"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"{path}:{number}: is corrupt; remove the file to scan all videos again"
            ) from error
    return broken


def first_causes(causes: Sequence[str]) -> list[str]:
    """Return the first ten causes, and in a last line how many more there are."""
    more = [f"and {len(causes) - MOST_NAMED} more"] if len(causes) > MOST_NAMED else []
    return [*causes[:MOST_NAMED], *more]


def check_share(
    broken: Mapping[Path, str], *, num_videos: int, largest_share: float, listed_in: Path
) -> None:
    """Refuse a dataset with too many broken videos.

    Raises:
        DatasetError: Too many videos are broken, or all; the message names the first.
    """
    share = len(broken) / max(num_videos, 1)
    if share <= largest_share and len(broken) < num_videos:
        return
    raise DatasetError(
        "\n".join(
            [
                f"{len(broken)} of {num_videos} videos cannot be used; at most {largest_share:.0%} may be "
                f"(data.max_rejected). All of them are listed in {listed_in}",
                *first_causes([f"{video}: {reason}" for video, reason in broken.items()]),
            ]
        )
    )
