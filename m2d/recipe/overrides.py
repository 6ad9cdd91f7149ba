"""Values that replace fields of a recipe for one run, and the recipe with them applied.

Owns which value replaces which field; resolves nothing against a model and knows no flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from m2d.errors import RecipeError
from m2d.progress import Reporter
from m2d.recipe.backend_choice import DtypeName
from m2d.recipe.explain import explain
from m2d.recipe.fields import out_problem
from m2d.recipe.places import COMMAND_LINE_NAME, Places
from m2d.recipe.schema import LoraChoice, Recipe
from m2d.recipe.settings import Setting

COMMAND_LINE = Places(path=COMMAND_LINE_NAME)
"""Places of values that are in no file; the command line shows their fields as flags."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Overrides:
    """Values that replace those of the recipe; None keeps the recipe's value.

    Attributes:
        out: Path of the film; unlike the recipe's `output`, it may name a folder.
        seed: The story's seed; a scene with its own seed keeps it.
        artifacts: Folder of exported graphs; not a recipe field, because recipes move between machines.
        backend_options: Added to the recipe's options; if `backend` differs, they replace them.
        loras: Replace those of the recipe.
        settings: Any fields of the recipe. They are part of the document before it is checked, so whatever
            loads it applies them, and `apply_overrides` does not.
        downloads: Receives the progress when a model is downloaded; None downloads nothing.
        published: Whether a published model that is not here is planned by its sizes, to predict the run.
        cpu_dtype: What `eager` computes in on a CPU where nothing is named; None is what the CPU is fast in.
    """

    out: Path | None = None
    seed: int | None = None
    num_inference_steps: int | None = None
    speed: str | None = None
    backend: str | None = None
    device: str | None = None
    dtype: str | None = None
    memory: str | None = None
    quantize: str | None = None
    artifacts: Path | None = None
    backend_options: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[LoraChoice, ...] | None = None
    settings: tuple[Setting, ...] = ()
    downloads: Reporter | None = None
    published: bool = False
    cpu_dtype: DtypeName | None = None


def apply_overrides(recipe: Recipe, overrides: Overrides) -> Recipe:
    """Return the recipe with the overrides applied; `out` is only checked, since it is not a recipe field.

    Raises:
        RecipeError: An override is not a valid value of its field.
    """
    sampling = {
        "seed": overrides.seed,
        "num_inference_steps": overrides.num_inference_steps,
        "speed": overrides.speed,
    }
    backend = {
        "name": overrides.backend,
        "device": overrides.device,
        "dtype": overrides.dtype,
        "memory": overrides.memory,
        "quantize": overrides.quantize,
    }
    document = recipe.model_dump()
    if overrides.loras is not None:
        document["loras"] = tuple(choice.model_dump() for choice in overrides.loras)
    document["sampling"] |= {key: value for key, value in sampling.items() if value is not None}
    if overrides.backend not in (None, recipe.backend.name):
        # The recipe's options belong to the other backend.
        document["backend"]["options"] = {}
    document["backend"] |= {key: value for key, value in backend.items() if value is not None}
    document["backend"]["options"] = {**document["backend"]["options"], **overrides.backend_options}
    problems = []
    try:
        changed = Recipe.model_validate(document)
    except ValidationError as error:
        problems += explain(error, model=Recipe, places=COMMAND_LINE)
    if overrides.out is not None and (problem := out_problem(overrides.out)):
        problems.append(COMMAND_LINE.problem(("output",), problem))
    if problems:
        raise RecipeError(problems)
    return changed
