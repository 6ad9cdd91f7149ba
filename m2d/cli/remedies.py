"""Words each remedy for the command line, with its flags and commands.

Rooms below `m2d/tasks` raise facts and a `Remedy`; only this file knows how a user applies it.
"""

from __future__ import annotations

from m2d.cli.flags import name_flag
from m2d.errors import InputError, M2DError, RecipeError, Remedy

_TEXTS = {
    Remedy.CHOOSE_OUTPUT: "choose another --out",
    Remedy.OVERWRITE: "choose another output, or replace it with --force",
    Remedy.WAIT: "wait for it, stop it, or choose another --out",
    Remedy.RESUME: "resume with --resume",
    Remedy.FREE_MEMORY_AND_RESUME: "free some memory, and --resume decodes them without denoising again",
    Remedy.RESUME_TRAINING: "continue with --resume latest",
    Remedy.RESTART_TRAINING: "start again without --resume",
    Remedy.GIVE_TRAINED_RUN: "give a run of `m2d train`",
    Remedy.PACK_MODEL: "pack it with its model (m2d puppet pack --codec, --base) and start from the result",
    Remedy.GIVE_CUTS: "say where scenes begin with --cuts 2.5,5.0",
    Remedy.WRITE_RECIPE: "`m2d init` writes a recipe to start from",
    Remedy.SHOW_DOCTOR: "`m2d doctor` shows what works here",
    Remedy.DISCARD_RUN: "discard it with --force, without --resume",
    Remedy.RESUME_OR_DISCARD: "continue it with --resume or discard it with --force",
    Remedy.REPEAT_OR_DISCARD: "ask for the same, or discard it with --force, without --resume",
    Remedy.START_RUN: "start a run without --resume",
    Remedy.RESUME_WITHOUT_PREVIEWS: "resume with --resume and without --save-previews",
    Remedy.GIVE_MODEL: "name that model with --model, or move the run folder away to use the film's frames",
}


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
