"""What the command line says instead of the recipe, and the recipe that comes of it.

Owns which flag overrides which field, and errors in the flags' names; resolves nothing against a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from m2d.errors import Problem, RecipeError
from m2d.recipe.explain import explain
from m2d.recipe.schema import Recipe
from m2d.recipe.text_tree import Places

_FLAGS = {
    "sampling.seed": "--seed",
    "sampling.num_inference_steps": "--steps",
    "sampling.speed": "--speed",
    "backend.name": "--backend",
    "backend.device": "--device",
    "backend.dtype": "--dtype",
    "backend.options": "--backend-option",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """What the command line says instead of the recipe; None leaves the recipe's.

    Attributes:
        out: Any path, unlike the recipe's `output`.
        seed: The story's seed; scenes with a seed of their own keep it.
        artifacts: Where exported graphs are; no part of a recipe, which goes to other machines.
        backend_options: Added to the recipe's, unless another backend is named: then in their place.
    """

    out: Path | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    speed: str | None = None
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    artifacts: Path | None = None
    backend_options: Mapping[str, str] = field(default_factory=dict)


def apply_overrides(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Return the recipe as the command line wants it; `out` is no part of a recipe.

    Raises:
        RecipeError: A value that no recipe may have; the message names the flag.
    """
    sampling = {
        "seed": overrides.seed,
        "num_inference_steps": overrides.num_inference_steps,
        "speed": overrides.speed,
    }
    backend = {"name": overrides.backend, "device": overrides.device, "dtype": overrides.dtype}
    document = recipe.model_dump()
    document["sampling"] |= {key: value for key, value in sampling.items() if value is not None}
    if overrides.backend not in (None, recipe.backend.name):
        # They are another backend's.
        document["backend"]["options"] = {}
    document["backend"] |= {key: value for key, value in backend.items() if value is not None}
    document["backend"]["options"] = {**document["backend"]["options"], **overrides.backend_options}
    problems = []
    try:
        changed = Recipe.model_validate(document)
    except ValidationError as error:
        found = explain(error, model=Recipe, places=Places(path="command line"))
        problems += [_as_flag(problem) for problem in found]
    if overrides.out is not None and overrides.out.suffix.lower() != ".mp4":
        problems.append(
            _flag_problem("--out", f"{str(overrides.out)!r} does not end in .mp4; films are MP4 files")
        )
    if problems:
        raise RecipeError(problems)
    return changed


def _as_flag(problem: Problem) -> Problem:
    return _flag_problem(_FLAGS.get(problem.field, problem.field), problem.message)


def _flag_problem(flag: str, message: str) -> Problem:
    return Problem(path="command line", line=0, column=0, field=flag, message=message)
