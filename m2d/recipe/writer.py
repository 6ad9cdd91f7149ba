"""Writes a recipe as YAML text that the loader reads back as an equal recipe.

Owns the order of fields and the quoting. PyYAML's dumper follows YAML 1.1, in which `1e3` and `0o17` are
text; the loader follows YAML 1.2, in which they are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from m2d.recipe.model_choice import choice_of
from m2d.recipe.schema import Recipe, Scene
from m2d.recipe.yaml_text import resolve_plain

# Text that needs no quotes: no `: `, ` #`, leading quote or indicator can occur. Words and spaces alternate,
# so that a long text that does not match is rejected in linear time.
_WORD_REST = r"(?:[A-Za-z0-9_.,()/'-]|:(?=[A-Za-z0-9]))*"
_PLAIN = re.compile(rf"[A-Za-z]{_WORD_REST}(?: [A-Za-z0-9(]{_WORD_REST})*")


def to_yaml(recipe: Recipe, *, header: str = "") -> str:
    """Write a recipe in reading order, without default values, below `header` as a comment."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    lines.append(f"title: {yaml_scalar(recipe.title)}")
    fields = choice_of(recipe).model_dump(exclude_none=True)
    lines += [f"{name}: {yaml_scalar(value)}" for name, value in fields.items()]
    if recipe.loras:
        lines.append("loras:")
        for choice in recipe.loras:
            lines += _entry_lines(choice.model_dump(exclude_defaults=True))
    if recipe.cast:
        lines.append("cast:")
        lines += [f"  {yaml_scalar(name)}: {yaml_scalar(text)}" for name, text in recipe.cast.items()]
    if recipe.setting is not None:
        lines.append(f"setting: {yaml_scalar(recipe.setting)}")
    lines.append("scenes:")
    for scene in recipe.scenes:
        lines += _scene_lines(scene)
    changed = recipe.model_dump(exclude_defaults=True)
    for name in ("sampling", "video", "mask", "backend", "output"):
        if name in changed:
            lines += _field_lines(name, changed[name])
    return "\n".join(lines) + "\n"


def _scene_lines(scene: Scene) -> Iterator[str]:
    changed = scene.model_dump(exclude_none=True)
    if len(changed) == 1:
        yield f"  - {yaml_scalar(scene.prompt)}"
        return
    yield from _entry_lines(changed)


def _entry_lines(fields: Mapping[str, object]) -> Iterator[str]:
    """Write an entry of a list, a field a line."""
    for index, (name, value) in enumerate(fields.items()):
        yield f"  {'-' if index == 0 else ' '} {name}: {_yaml_value(value)}"


def _field_lines(name: str, value: object) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{name}: {yaml_scalar(value)}"
        return
    if not value:
        return
    yield f"{name}:"
    yield from (f"  {key}: {_yaml_value(part)}" for key, part in value.items())


def _yaml_value(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(yaml_scalar, value))}]"
    if not isinstance(value, Mapping):
        return yaml_scalar(value)
    return f"{{{', '.join(f'{key}: {yaml_scalar(part)}' for key, part in value.items())}}}"


def yaml_scalar(value: object) -> str:
    """Return a number or a text as YAML that the loader reads back with the same value and type."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = str(value)
    if _PLAIN.fullmatch(text) and resolve_plain(text) == text:
        return text
    return f'"{"".join(_escaped(text))}"'


def _escaped(text: Sequence[str]) -> Iterator[str]:
    for character in text:
        if character in '"\\':
            yield f"\\{character}"
        elif character.isprintable():
            yield character
        elif ord(character) <= 0xFFFF:
            yield f"\\u{ord(character):04x}"
        else:
            yield f"\\U{ord(character):08x}"
