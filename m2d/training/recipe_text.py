"""Write a training recipe as YAML that the loader reads back as an equal recipe."""

from __future__ import annotations

import json
import re
from typing import Any

from m2d.recipe.yaml_text import resolve_plain
from m2d.training.recipe import TrainingRecipe

# Words that need no quotes inside braces.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_./-]+)*")


def recipe_text(recipe: TrainingRecipe, *, header: str = "") -> str:
    """Return the recipe in reading order, without default values, below `header` as a comment."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    fields = recipe.model_dump(mode="json", exclude_defaults=True)
    lines += [f"{name}: {_flow(value)}" for name, value in fields.items()]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and resolve_plain(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
