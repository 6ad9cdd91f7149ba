"""Which LoRAs a run needs: those of its recipe, and those of the scenes that are its context.

Owns which scenes of the film each one holds for; `m2d.families.loras` finds the files. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from m2d.errors import CheckpointError, Problem, RecipeError, Remedy
from m2d.model.lora_file import LoraFile, LoraUse
from m2d.recipe.places import Places
from m2d.recipe.schema import LoraChoice, Recipe
from m2d.windows import Window


class PlannedWindow(Protocol):
    """The part of a planned window that names its scenes."""

    @property
    def window(self) -> Window:
        """Its scenes."""


LoraFinder = Callable[[LoraChoice], LoraFile]
"""Finds a LoRA for the model, or raises CheckpointError."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundLoras:
    """The LoRAs of a recipe, with their files, in its order.

    Attributes:
        choices: With the identity of each file.
        problems: Files that cannot be used.
        warnings: What files leave open.
    """

    choices: tuple[LoraChoice, ...]
    files: tuple[LoraFile, ...]
    problems: tuple[Problem, ...] = ()
    warnings: tuple[str, ...] = ()
    remedy: Remedy | None = None

    def of_scene(self, index: int) -> tuple[LoraChoice, ...]:
        """Return the LoRAs of a scene's own, counted from 0 in the recipe."""
        return tuple(
            choice.model_copy(update={"scenes": None})
            for choice in self.choices
            if choice.scenes is not None and index + 1 in choice.scenes
        )

    def recorded(self) -> tuple[LoraChoice, ...]:
        """Return the choices as a film records them: files are named without their folders."""
        return tuple(
            choice.model_copy(update={"path": PurePath(choice.path).name}) for choice in self.choices
        )

    def uses(
        self,
        targets: Sequence[int],
        windows: Iterable[PlannedWindow],
        of_scenes: Sequence[Sequence[LoraChoice]],
        *,
        find: LoraFinder | None,
    ) -> tuple[LoraUse, ...]:
        """Return the run's LoRAs; scenes are those of the film, from 0.

        Args:
            targets: The recipe's scenes.
            windows: The windows of the run; a scene that is only context keeps the LoRAs of its own.
            of_scenes: For each scene of the film, the LoRAs of its own.

        Raises:
            RecipeError: The LoRA of a context scene cannot be used.
        """
        found = []
        for choice, file in zip(self.choices, self.files, strict=True):
            own = None if choice.scenes is None else tuple(sorted({targets[n - 1] for n in choice.scenes}))
            found.append(LoraUse(file=file, scale=choice.scale, scenes=own))
        context = {scene for part in windows for scene in part.window.context} - {*targets}
        for number in sorted(context):
            for choice in of_scenes[number]:
                file = _found_or_refused(choice, number, find)
                found = _with_scene(found, LoraUse(file=file, scale=choice.scale, scenes=(number,)))
        return tuple(found)


def find_loras(recipe: Recipe, find: LoraFinder | None, *, places: Places) -> FoundLoras:
    """Find the files of a recipe's LoRAs.

    Raises:
        ValueError: There are LoRAs and no way to find them.
    """
    if recipe.loras and find is None:
        raise ValueError("find: missing; the recipe has LoRAs")
    choices, files, problems, warnings, remedy = [], [], [], [], None
    for index, choice in enumerate(recipe.loras):
        assert find is not None
        key_path = ("loras", index, "path")
        try:
            file = find(choice)
        except CheckpointError as error:
            problems.append(places.problem(key_path, str(error)))
            remedy = remedy or error.remedy
            continue
        choices.append(choice.model_copy(update={"sha256": file.sha256}))
        files.append(file)
        if file.warning:
            warnings.append(str(places.problem(key_path, file.warning)))
    return FoundLoras(
        choices=tuple(choices),
        files=tuple(files),
        problems=tuple(problems),
        warnings=tuple(warnings),
        remedy=remedy,
    )


def _found_or_refused(choice: LoraChoice, number: int, find: LoraFinder | None) -> LoraFile:
    if find is None:
        raise ValueError("find: missing; a scene of the film has LoRAs")
    try:
        return find(choice)
    except CheckpointError as error:
        problem = Places(path="command line").problem(
            ("loras",), f"scene {number + 1} of the film, which is context here: {error}"
        )
        raise RecipeError([problem], remedy=error.remedy) from error


def _with_scene(uses: Sequence[LoraUse], wanted: LoraUse) -> list[LoraUse]:
    """Add a scene to the same LoRA of other scenes, or else a LoRA."""
    merged = list(uses)
    for place, use in enumerate(merged):
        is_same = (use.file.sha256, use.scale) == (wanted.file.sha256, wanted.scale)
        if is_same and use.scenes and wanted.scenes and not {*use.scenes} & {*wanted.scenes}:
            merged[place] = LoraUse(
                file=use.file, scale=use.scale, scenes=tuple(sorted({*use.scenes, *wanted.scenes}))
            )
            return merged
    return [*merged, wanted]
