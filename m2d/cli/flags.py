"""Which flag sets which field of a recipe: problems of the command line are shown by their flags."""

from __future__ import annotations

import re
from dataclasses import replace

from m2d.errors import Problem

# As in `m2d.recipe.overrides`, which takes a tenth of a second to import.
_COMMAND_LINE = "command line"
_FLAGS = {
    "model": "--model",
    "output": "--out",
    "sampling.seed": "--seed",
    "sampling.num_inference_steps": "--steps",
    "sampling.speed": "--speed",
    "backend.name": "--backend",
    "backend.device": "--device",
    "backend.dtype": "--dtype",
    "backend.options": "--backend-option",
    "prompt": "--prompt",
    "frames": "--frames",
    "join": "--join",
    "seed": "--seed",
}
_NUMBERED_PROMPT = re.compile(r"scenes\[([0-9]+)\]\.prompt")
_WARNING = re.compile(rf"{_COMMAND_LINE}: (?P<field>[^:]+): (?P<message>.*)", re.DOTALL)


def flag_of(field: str) -> str:
    """Return the flag that sets `field`: `--prompt 2` for the second scene's; a field without one stays."""
    numbered = _NUMBERED_PROMPT.fullmatch(field)
    return f"--prompt {int(numbered[1]) + 1}" if numbered else _FLAGS.get(field, field)


def name_flag(problem: Problem) -> Problem:
    """Return the problem with its flag in place of its field, if it stands on the command line."""
    return replace(problem, field=flag_of(problem.field)) if problem.path == _COMMAND_LINE else problem


def name_flag_in(warning: str) -> str:
    """Return a warning about the command line as `--flag: message`; any other one stays."""
    found = _WARNING.fullmatch(warning)
    return f"{flag_of(found['field'])}: {found['message']}" if found else warning
