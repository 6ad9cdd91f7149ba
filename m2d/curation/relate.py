"""Stage `relate`: windows of shots that follow each other and belong together, joined to groups.

Pure functions of shots and their similarities. A window is kept if the similarities of its neighbours, or the
one of all its shots, lie in the range: below it the story changes, above it the shots are copies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Annotated

from pydantic import Field

from m2d.curation.filter import shot_id, shot_name
from m2d.curation.settings import RelateSettings
from m2d.curation.shots import Shot
from m2d.curation.stage_file import Outcome, key_of

_VERSION = "relate/1"
Similarity = Callable[[Sequence[int]], float]
"""Of shots, by their places."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A kept window: places of its shots among all kept shots, and the similarities that were judged."""

    places: Annotated[tuple[int, ...], Field(min_length=1)]
    similarities: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Shots that belong together, in their order; `similarities` are those of neighbours."""

    name: str
    shots: tuple[Shot, ...]
    similarities: tuple[float, ...]


def runs_of(shots: Sequence[Shot], *, max_gap_s: float) -> list[list[int]]:
    """Return the places of shots that follow each other in one film, at most `max_gap_s` apart."""
    runs: list[list[int]] = []
    for place, shot in enumerate(shots):
        before = shots[place - 1] if place else None
        if before and before.film == shot.film and shot.start_s - before.end_s <= max_gap_s:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


def judge_windows(
    shots: Sequence[Shot],
    settings: RelateSettings,
    *,
    sim_range: tuple[float, float],
    similarity: Similarity,
    is_joint: bool = False,
) -> list[Outcome[Window]]:
    """Judge every window of `num_shots` shots that follow each other.

    Args:
        sim_range: Smallest and largest similarity.
        is_joint: Whether `similarity` judges a window at once, and not pair by pair.
    """
    found = []
    for run in runs_of(shots, max_gap_s=settings.max_gap_s):
        for start in range(len(run) - settings.num_shots + 1):
            places = tuple(run[start : start + settings.num_shots])
            pairs = combinations(places, 2) if settings.all_pairs else pairwise(places)
            judged = tuple(round(similarity(each), 4) for each in ([places] if is_joint else pairs))
            reason = _out_of_range(judged, sim_range)
            window = Window(places=places, similarities=judged)
            ids = [shot_id(shots[place]) for place in places]
            found.append(
                Outcome(
                    key=key_of(_VERSION, ids, judged, sim_range),
                    place=f"{shot_name(shots[places[0]])} to {shots[places[-1]].end_s:.3f} s",
                    outputs=() if reason else (window,),
                    reason=reason,
                )
            )
    return found


def join_windows(
    windows: Sequence[Outcome[Window]],
    shots: Sequence[Shot],
    settings: RelateSettings,
    *,
    similarity: Similarity,
) -> list[Group]:
    """Join kept windows that follow each other shot by shot to groups of at most `max_shots`.

    No shot is in two groups, and no group has a window that was rejected.
    """
    chains: list[list[int]] = []
    before = used = -1
    for line in windows:
        for window in line.outputs:
            first, last = window.places[0], window.places[-1]
            is_next = chains and first == before + 1 and first <= used
            added = range(max(first, used + 1), last + 1)
            if is_next:
                chains[-1] += added
            else:
                chains.append(list(added))
            before, used = first, last
    groups = []
    for chain in chains:
        for places in _pieces(chain, fewest=settings.num_shots, most=settings.max_shots):
            members = tuple(shots[place] for place in places)
            sims = tuple(round(similarity(pair), 4) for pair in pairwise(places))
            name = key_of([shot_id(shot) for shot in members])[:12]
            groups.append(Group(name=name, shots=members, similarities=sims))
    return groups


def _pieces(chain: Sequence[int], *, fewest: int, most: int) -> list[Sequence[int]]:
    """Divide a chain into pieces of nearly equal size; shots at its end that make no piece are left out."""
    count = max(-(-len(chain) // most), 1)
    size = len(chain) // count
    if size < fewest:
        count, size = len(chain) // fewest, fewest
    extra = min(len(chain) - count * size, count) if size < most else 0
    pieces, start = [], 0
    for number in range(count):
        stop = start + size + (number < extra)
        pieces.append(chain[start:stop])
        start = stop
    return pieces


def _out_of_range(judged: Sequence[float], sim_range: tuple[float, float]) -> str:
    least, largest = sim_range
    if min(judged, default=1.0) < least:
        return f"is unrelated: a similarity is {min(judged):.3f}, below {least:g}"
    if max(judged, default=0.0) > largest:
        return f"repeats itself: a similarity is {max(judged):.3f}, above {largest:g}"
    return ""
