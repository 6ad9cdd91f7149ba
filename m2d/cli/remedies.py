"""Words problems and remedies for the command line, with its flags and commands.

Rooms below `m2d/tasks` raise facts about fields and a `Remedy`; only this file knows which flag sets a field
and how a user applies a remedy.
"""

from __future__ import annotations

import re
from dataclasses import replace

from m2d.errors import InputError, M2DError, Problem, RecipeError, Remedy

# As in `m2d.recipe.overrides`, which takes a tenth of a second to import.
_COMMAND_LINE = "command line"
_FLAGS = {
    "title": "--title",
    "model": "--model",
    "revision": "--revision",
    "variant": "--variant",
    "transformer": "--transformer",
    "vae": "--vae",
    "text_encoder": "--text-encoder",
    "output": "--out",
    "sampling.seed": "--seed",
    "sampling.num_inference_steps": "--steps",
    "sampling.speed": "--speed",
    "backend.name": "--backend",
    "backend.device": "--device",
    "backend.dtype": "--dtype",
    "backend.memory": "--memory",
    "backend.quantize": "--quantize",
    "backend.options": "--backend-option",
    "loras": "--lora",
    "prompt": "--prompt",
    "frames": "--frames",
    "join": "--join",
    "seed": "--seed",
}
_NUMBERED_PROMPT = re.compile(r"scenes\[([0-9]+)\]\.prompt")
_WARNING = re.compile(rf"{_COMMAND_LINE}: (?P<field>[^:]+): (?P<message>.*)", re.DOTALL)
_SAVE_MEMORY = "give --memory group-offload, or sequential, which needs least"
_TEXTS = {
    Remedy.CHOOSE_OUTPUT: "choose another --out",
    Remedy.OVERWRITE: "choose another output, or replace it with --force",
    Remedy.WAIT: "wait for it, stop it, or choose another --out",
    Remedy.RESUME: "resume with --resume",
    Remedy.FREE_MEMORY_AND_RESUME: "free some memory, and --resume decodes them without denoising again",
    Remedy.SAVE_MEMORY: f"{_SAVE_MEMORY}, or make smaller or fewer frames",
    Remedy.SAVE_MEMORY_AND_RESUME: f"{_SAVE_MEMORY}, and continue with --resume",
    Remedy.RESUME_TRAINING: "continue with --resume",
    Remedy.RESTART_TRAINING: "start again without --resume",
    Remedy.GIVE_TRAINED_RUN: "give a run of `m2d train`",
    Remedy.PACK_MODEL: "pack it with its model (m2d puppet pack --codec, --base) and start from the result",
    Remedy.GIVE_CUTS: "say where scenes begin with --cuts 2.5,5.0",
    Remedy.WRITE_RECIPE: "`m2d init` writes a recipe to start from",
    Remedy.TRAIN_ON_CLIPS: "`m2d train --data FOLDER` chooses a recipe for your clips, and `--print-recipe` "
    "shows it to edit",
    Remedy.SHOW_DOCTOR: "`m2d doctor` shows what works here",
    Remedy.DISCARD_RUN: "discard it with --force, without --resume",
    Remedy.RESUME_OR_DISCARD: "continue it with --resume or discard it with --force",
    Remedy.REPEAT_OR_DISCARD: "ask for the same, or discard it with --force, without --resume",
    Remedy.START_RUN: "start a run without --resume",
    Remedy.RESUME_WITHOUT_PREVIEWS: "resume with --resume and without --save-previews",
    Remedy.GET_NETWORKS: "get each with `m2d models get` and its name",
    Remedy.GET_MODEL: "`m2d generate` downloads it, and so does `m2d models get ID`",
    Remedy.GIVE_LORA: "give that file with --lora, wherever it lies now",
    Remedy.GIVE_MODEL: "name that model with --model, or move the run folder away to use the film's frames",
}


def flag_of(field: str) -> str:
    """Return the flag that sets `field`: `--prompt 2` for the second scene's; a field without one stays.

    `set FIELD` is a field that was given for this run, with `--set`.
    """
    if field.startswith("set "):
        return f"--{field}"
    if field.startswith("loras["):
        return "--lora"
    numbered = _NUMBERED_PROMPT.fullmatch(field)
    return f"--prompt {int(numbered[1]) + 1}" if numbered else _FLAGS.get(field, field)


def name_flag(problem: Problem) -> Problem:
    """Return the problem with its flag in place of its field, if it stands on the command line."""
    return replace(problem, field=flag_of(problem.field)) if problem.path == _COMMAND_LINE else problem


def name_flag_in(warning: str) -> str:
    """Return a warning about the command line as `--flag: message`; any other one stays."""
    found = _WARNING.fullmatch(warning)
    return f"{flag_of(found['field'])}: {found['message']}" if found else warning


def advise(message: str, remedy: Remedy | None) -> str:
    """Return `message` with the remedy at the end of its first line; further lines are details."""
    if remedy is None:
        return message
    first, *rest = message.split("\n")
    return "\n".join([f"{first}; {_TEXTS[remedy]}", *rest])


def describe(error: BaseException) -> list[str]:
    """Return the text of each problem of `error`, with the flag at fault and the remedy."""
    if isinstance(error, RecipeError):
        first, *rest = (str(name_flag(problem)) for problem in error.problems)
        return [advise(first, error.remedy), *rest]
    message = str(error)
    if isinstance(error, InputError) and error.argument:
        message = f"--{error.argument.replace('_', '-')}{message.removeprefix(error.argument)}"
    return [advise(message, error.remedy if isinstance(error, M2DError) else None)]
