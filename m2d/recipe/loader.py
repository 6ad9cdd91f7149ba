"""Loads a file as a validated recipe, or reports all of its problems at once.

Owns the steps from text to model, for any pydantic model; the rules themselves belong to the models. Models
are validated strictly: sequences arrive as tuples, so a model declares `tuple[X, ...]`, not `list[X]`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from m2d.errors import Problem, RecipeError
from m2d.recipe.explain import explain
from m2d.recipe.places import ParsedText, Place, Places, field_name, place_problem
from m2d.recipe.schema import Recipe
from m2d.recipe.settings import Setting, apply_settings
from m2d.recipe.text_file import read_text
from m2d.recipe.yaml_text import MAX_PROBLEMS, parse_json, parse_yaml

DocumentModel = TypeVar("DocumentModel", bound=BaseModel)


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded(Generic[DocumentModel]):
    """A validated document, with the places of its fields for the messages of later checks."""

    value: DocumentModel
    places: Places


def load_recipe(path: Path) -> Recipe:
    """Load a story recipe; raises as `load_document` does."""
    return load_document(path, Recipe)


def load_document(
    path: Path, model: type[DocumentModel], *, settings: Sequence[Setting] = ()
) -> DocumentModel:
    """Load a YAML (or, by its ending, JSON) file as `model`, with the fields in `settings` replaced.

    A model may have a classmethod `cross_field_problems(data) -> list[FieldProblem]`: rules between fields,
    which are checked even if single fields are invalid, so that one run reports all problems.

    Raises:
        RecipeError: The file cannot be read or does not fit the model; all problems together.
    """
    return load_with_places(path, model, settings=settings).value


def load_with_places(
    path: Path, model: type[DocumentModel], *, settings: Sequence[Setting] = ()
) -> Loaded[DocumentModel]:
    """Load a file as `load_document` does, and keep the places of its fields."""
    parse = parse_json if path.suffix.lower() == ".json" else parse_yaml
    return _fit(parse(read_text(path), name=str(path)), model, settings)


def parse_document(
    text: str,
    model: type[DocumentModel],
    *,
    name: str,
    parse: Callable[..., ParsedText] = parse_yaml,
    settings: Sequence[Setting] = (),
) -> Loaded[DocumentModel]:
    """Load a text that is not a file, such as the recipe inside a film, as `load_document` does.

    `name` is the origin of the text and starts every message; `parse` is `parse_yaml` or `parse_json`.
    """
    return _fit(parse(text, name=name), model, settings)


def fit_document(
    data: object, model: type[DocumentModel], *, places: Places, settings: Sequence[Setting] = ()
) -> Loaded[DocumentModel]:
    """Check a document that was built in code, with the fields in `settings` replaced, as `load_document`."""
    return _fit(ParsedText(value=data, places=places), model, settings)


def _fit(
    tree: ParsedText, model: type[DocumentModel], settings: Sequence[Setting] = ()
) -> Loaded[DocumentModel]:
    data, places = (
        apply_settings(tree.value, settings, tree.places) if settings else (tree.value, tree.places)
    )
    in_text = [(key_path, problem) for key_path, problem in tree.problems if not places.is_replaced(key_path)]
    problems = [problem for _, problem in in_text]
    rules = getattr(model, "cross_field_problems", None)
    broken = [places.problem(key_path, message) for key_path, message in (rules(data) if rules else [])]
    try:
        value = model.model_validate(data, strict=True)
    except ValidationError as error:
        broken = explain(error, model=model, places=places) + broken
    else:
        if not problems and not broken:
            return Loaded(value=value, places=places)
    reported = tuple(field_name(key_path) for key_path, _ in in_text if key_path)
    # A field that already has a problem needs no other one, and neither do the fields in it.
    inside = tuple(f"{name}{end}" for name in reported for end in ".[")
    problems += [
        problem
        for problem in dict.fromkeys(broken)
        if problem.field not in reported and not problem.field.startswith(inside)
    ]
    raise RecipeError(_in_reading_order(problems))


def _in_reading_order(problems: list[Problem]) -> list[Problem]:
    ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
    if len(ordered) <= MAX_PROBLEMS:
        return ordered
    last = ordered[MAX_PROBLEMS]
    more = f"and {len(ordered) - MAX_PROBLEMS} more problems from here on; repair the ones above first"
    rest = place_problem(last.path, Place(line=last.line, column=last.column), more)
    return [*ordered[:MAX_PROBLEMS], rest]
