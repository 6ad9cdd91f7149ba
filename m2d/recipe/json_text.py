"""Strict JSON: the same values, places and limits as YAML.

The standard library's reader checks the syntax, but reports no places, lets the last of two equal keys win
and accepts NaN. So the values come from the YAML reader, which also asks for keys of at most 1,024 characters
with the colon in the same line.
"""

from __future__ import annotations

import json

from m2d.errors import RecipeError
from m2d.recipe.places import ParsedText, Place, place_at, place_problem
from m2d.recipe.text_file import check_characters
from m2d.recipe.yaml_text import parse_yaml


def parse_json(text: str, *, name: str) -> ParsedText:
    """Parse one document, as `parse_yaml` does.

    Raises:
        RecipeError: The text is no JSON at all, is empty, or breaks a limit.
    """
    check_characters(text, name=name)
    if not text.strip():
        raise RecipeError([place_problem(name, Place(line=1, column=1), "the file is empty")])
    try:
        json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    except json.JSONDecodeError as error:
        message = f"not valid JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise RecipeError([place_problem(name, place_at(text, error.pos), message)]) from error
    except RecursionError:
        # The reader below reports the place where the nesting becomes too deep.
        pass
    # Outside strings YAML allows fewer tabs than JSON; inside them JSON allows none.
    return parse_yaml(text.replace("\t", " "), name=name, language="JSON")
