"""Single fields of a recipe, given for one run as `sampling.seed=3` or `scenes[1].prompt=Actor1 waves.`

Owns their form and where they go in a document; the rules of the fields belong to the models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from m2d.errors import InputError, RecipeError
from m2d.recipe.places import KeyPath, Places, field_name, setting_problem, show
from m2d.recipe.yaml_text import parse_yaml, resolve_plain

_STEP = re.compile(r"\[(?P<index>[0-9]{1,6})\]|(?P<dot>\.)?(?P<key>[^.\[\]\s]+)")
_HOW = "use FIELD=VALUE, such as sampling.seed=3 or scenes[0].prompt='Actor1 waves.'"
# Values that start like this are read as YAML; any other one is the text or the number as it stands, so that
# a prompt may hold a colon or a hash sign.
_YAML_STARTS = ("[", "{", '"', "'")


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field and its value; a step of the path that is a number as text may mean a list's entry."""

    key_path: KeyPath
    value: object

    @property
    def name(self) -> str:
        """The field as messages spell it."""
        return field_name(self.key_path)


def parse_settings(texts: Sequence[str]) -> tuple[Setting, ...]:
    """Parse texts such as `sampling.seed=3`.

    Raises:
        InputError: A text has another form, or a field is given twice, alone or as a part of another one.
    """
    found: list[Setting] = []
    for text in texts:
        setting = _parse(text)
        for other in found:
            if not same_start(setting.key_path, other.key_path):
                continue
            if len(setting.key_path) == len(other.key_path):
                message = f"given twice, as {show(other.value)} and {show(setting.value)}"
            else:
                message = f"given twice, because {other.name} is given, too, and one holds the other"
            raise InputError(message, argument=f"set {setting.name}")
        found.append(setting)
    return tuple(found)


def apply_settings(data: object, settings: Sequence[Setting], places: Places) -> tuple[Any, Places]:
    """Return a raw document with fields replaced, and its places, which name them as given for this run.

    Raises:
        RecipeError: A path leads through a value that has no fields, or past the end of a list.
    """
    replaced = []
    for setting in settings:
        data, key_path = _put(data, setting.key_path, setting.value, done=())
        replaced.append(key_path)
    return data, replace(places, replaced=(*places.replaced, *replaced))


def same_start(one: KeyPath, other: KeyPath) -> bool:
    """Whether one of two fields is the other one or a part of it."""
    # A list's entry may be given as text: `scenes.0` is `scenes[0]`.
    return all(str(step) == str(step_of_other) for step, step_of_other in zip(one, other, strict=False))


def _parse(text: str) -> Setting:
    path, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{show(text)} has no value; {_HOW}", argument="set")
    key_path = _key_path(path.strip())
    try:
        return Setting(key_path=key_path, value=_value(value.strip()))
    except RecipeError as error:
        raise InputError(error.problems[0].message, argument=f"set {field_name(key_path)}") from error
    except ValueError as error:
        raise InputError(str(error), argument=f"set {field_name(key_path)}") from error


def _key_path(path: str) -> KeyPath:
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None or (step["key"] is not None and bool(step["dot"]) == (not steps)):
            break
        steps.append(int(step["index"]) if step["index"] is not None else step["key"])
        position = step.end()
    if not steps or position < len(path):
        raise InputError(f"{show(path)} is no field; {_HOW}", argument="set")
    return tuple(steps)


def _value(text: str) -> object:
    if not text.startswith(_YAML_STARTS):
        return resolve_plain(text)
    parsed = parse_yaml(text, name="")
    if parsed.problems:
        raise RecipeError([parsed.problems[0][1]])
    return parsed.value


def _put(node: Any, steps: KeyPath, value: object, *, done: KeyPath) -> tuple[object, KeyPath]:
    """Return `node` with the value at `steps`, and the path from the document to it."""
    if not steps:
        return value, done
    step, rest = steps[0], steps[1:]
    if isinstance(node, str) and len(done) == 2 and done[0] == "scenes":
        # A scene's short form.
        node = {"prompt": node}
    if node is None:
        node = {}
    if isinstance(node, Mapping):
        if isinstance(step, int):
            raise _refusal((*done, step), f"{field_name(done) or 'a recipe'} has fields, not numbers")
        inner, key_path = _put(node.get(step), rest, value, done=(*done, step))
        return {**node, step: inner}, key_path
    if isinstance(node, list | tuple):
        index = _index(step, num_entries=len(node), done=done)
        inner, key_path = _put(node[index], rest, value, done=(*done, index))
        return (*node[:index], inner, *node[index + 1 :]), key_path
    raise _refusal((*done, step), f"{field_name(done)} is {show(node)}, which has no fields")


def _index(step: str | int, *, num_entries: int, done: KeyPath) -> int:
    name = field_name(done)
    if isinstance(step, str) and not (step.isascii() and step.isdigit() and len(step) < 7):
        raise _refusal((*done, step), f"{name} is a list; give a number, such as {name}[0]")
    index = int(step)
    if index >= num_entries:
        known = f"{name}[0] to {name}[{num_entries - 1}]" if num_entries else "none"
        raise _refusal((*done, index), f"there is no such entry; the recipe has {known}")
    return index


def _refusal(key_path: KeyPath, message: str) -> RecipeError:
    return RecipeError([setting_problem(key_path, message)])
