"""Windows: which scenes of a film are denoised together, and in what order.

Owns the arithmetic of long stories, extension and re-rolling; knows nothing of tokens, prompts or models.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """One pass of the denoising loop.

    Attributes:
        scenes: Scenes of the film that the model sees, from 0, ascending.
        targets: The scenes of the window that are denoised, ascending; the others are clean context.
    """

    scenes: tuple[int, ...]
    targets: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, numbers in (("scenes", self.scenes), ("targets", self.targets)):
            if not numbers or list(numbers) != sorted(set(numbers)) or numbers[0] < 0:
                raise ValueError(f"{name}: {numbers}; give scene numbers from 0, ascending, each once")
        if not set(self.targets) <= set(self.scenes):
            raise ValueError(f"targets {self.targets} are not all among scenes {self.scenes}")

    @property
    def context(self) -> tuple[int, ...]:
        """The context scenes."""
        return tuple(scene for scene in self.scenes if scene not in self.targets)


def story_windows(
    num_scenes: int, *, capacity: int, alone: Set[int] = frozenset(), anchor: int | None = None
) -> tuple[Window, ...]:
    """Cut a story into windows: the first scenes jointly, every later one after those before it.

    Args:
        capacity: Scenes that the model sees at once.
        alone: Scenes that start from the finished previous scene, and so cannot share its window.
        anchor: As in `extension_windows`.
    """
    _check(num_scenes, capacity)
    joint = min([num_scenes, capacity, *(scene for scene in alone if scene > 0)])
    first = Window(scenes=tuple(range(joint)), targets=tuple(range(joint)))
    return (first, *extension_windows(joint, num_scenes - joint, capacity=capacity, anchor=anchor))


def extension_windows(
    num_scenes: int, num_new: int, *, capacity: int, anchor: int | None = None
) -> tuple[Window, ...]:
    """Append scenes to a film, one window each, with `capacity - 1` scenes of the film as its context.

    Args:
        anchor: A scene that stands in for the earliest of the last scenes, where two or more of them fit, so
            that a long film does not drift away from it; None gives the last scenes alone.
    """
    _check(num_scenes, capacity)
    return tuple(
        Window(scenes=_seen(scene, capacity, anchor), targets=(scene,))
        for scene in range(num_scenes, num_scenes + num_new)
    )


def _seen(scene: int, capacity: int, anchor: int | None) -> tuple[int, ...]:
    recent = tuple(range(max(0, scene - capacity + 1), scene + 1))
    return recent if anchor is None or anchor >= recent[0] or len(recent) < 3 else (anchor, *recent[1:])


def reroll_windows(
    num_scenes: int, chosen: Sequence[int], *, capacity: int, anchor: int | None = None
) -> tuple[Window, ...]:
    """Regenerate chosen scenes, with the film's other scenes as context.

    Chosen scenes that fit into one window are denoised jointly. Otherwise each gets its own window, in the
    film's order, and sees the new version of earlier ones.

    Args:
        anchor: As in `extension_windows`, for the film's last scene: it sees what it was appended to.

    Raises:
        ValueError: No scene chosen, or one that the film does not have.
    """
    _check(num_scenes, capacity)
    targets = tuple(sorted(set(chosen)))
    if not targets or targets[0] < 0 or targets[-1] >= num_scenes:
        raise ValueError(f"chosen: {list(chosen)}; give some of the scenes 0 to {num_scenes - 1}")
    if targets[0] < targets[-1] < targets[0] + capacity:
        return (Window(scenes=_around(targets[0], targets[-1], num_scenes, capacity), targets=targets),)
    return tuple(
        Window(
            scenes=_seen(scene, capacity, anchor)
            if scene == num_scenes - 1
            else _around(scene, scene, num_scenes, capacity),
            targets=(scene,),
        )
        for scene in targets
    )


def _around(first: int, last: int, num_scenes: int, capacity: int) -> tuple[int, ...]:
    """Return as many scenes as fit, the given ones as near to the middle as the film's ends allow."""
    start = first - (capacity - (last - first + 1)) // 2
    start = max(0, min(start, num_scenes - capacity))
    return tuple(range(start, min(start + capacity, num_scenes)))


def _check(num_scenes: int, capacity: int) -> None:
    if num_scenes < 1 or capacity < 1:
        raise ValueError(f"{num_scenes} scenes in windows of {capacity}; both must be at least 1")
