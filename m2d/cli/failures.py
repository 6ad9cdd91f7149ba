"""How a command that failed ends: red lines on stderr, with --json an object on stdout, and an exit code."""

from __future__ import annotations

import os
import re
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import Any

import typer

from m2d.cli.remedies import describe, flag_of, name_flag
from m2d.cli.system_errors import system_problem
from m2d.errors import EXIT_BAD_INPUT, EXIT_FAILED, Interrupted, M2DError, RecipeError

EXIT_INTERRUPTED = 130
# Launchers look after their processes several times a second; the first process may start more slowly.
_LAUNCHER_WAIT_S = 30.0
# What pydantic puts before the text of another exception.
_NO_TEXT = "Value error, "
_NO_CHOICE = re.compile(r"'(?P<got>[^']*)' is not one of (?P<choices>'.*')\.")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_STOPPED = "stopped; no file was left half-written"


def end_failed(error: Exception, *, debug: bool, as_json: bool) -> int:
    """Report `error` and return its exit code; re-raise an error that is a bug."""
    is_ours = isinstance(error, (M2DError, typer.TyperException))
    refused = None if is_ours else system_problem(error)
    is_expected = is_ours or refused is not None
    if is_expected and not debug and not _is_reported_here(error):
        return error.exit_code if isinstance(error, M2DError) else EXIT_FAILED
    if debug and is_expected:
        traceback.print_exception(error)
    if isinstance(error, M2DError):
        _report(_with_commands(error), as_json=as_json, error=error, exit_code=error.exit_code)
        return error.exit_code
    if refused is not None:
        kind = type(error).__name__
        _report([refused.message], as_json=as_json, exit_code=refused.exit_code, kind=kind)
        return refused.exit_code
    if isinstance(error, typer.Abort):
        return EXIT_FAILED
    if isinstance(error, typer.TyperException):
        return _end_misused(error, as_json=as_json)
    if as_json:
        # The traceback of a bug follows on stderr.
        _write(f"{type(error).__name__}: {error}", kind="Bug", exit_code=EXIT_FAILED)
    raise error


def end_interrupted(*, as_json: bool) -> int:
    """Report that Ctrl-C ended the command; return the exit code."""
    _report([_STOPPED], as_json=as_json, kind="Interrupted", exit_code=EXIT_INTERRUPTED)
    return EXIT_INTERRUPTED


def error_document(error: M2DError) -> dict[str, Any]:
    """Return an error as JSON values: `message` is what the terminal shows, `problems` are a recipe's."""
    return _document(
        "\n".join(_with_commands(error)), kind=type(error).__name__, exit_code=error.exit_code, error=error
    )


def _is_reported_here(error: Exception) -> bool:
    """Whether this process reports `error`: of processes that train together, the first on each machine does.

    If the first process fails too, the launcher ends this one during the wait. Otherwise the error is of this
    process alone.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        return True
    # A signal stops all processes together.
    if isinstance(error, Interrupted):
        return False
    time.sleep(_LAUNCHER_WAIT_S)
    return True


def _end_misused(error: typer.TyperException, *, as_json: bool) -> int:
    from m2d.cli.console import show_hint

    # A group without a command raises its help as an error, of a class that is private to Typer.
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
        return error.exit_code
    message = _flag_meant(error) or _with_nearest_choice(_with_value(error).replace(_NO_TEXT, ""))
    _report([message], as_json=as_json, kind="UsageError", exit_code=EXIT_BAD_INPUT)
    context = getattr(error, "ctx", None)
    show_hint(f"try `{context.command_path if context else 'm2d'} --help`")
    return error.exit_code


def _with_value(error: typer.TyperException) -> str:
    """Return the message of an error, which does not say which value of an option pydantic refused."""
    message = error.format_message()
    if error.__cause__ is None:
        return message
    from pydantic import ValidationError

    from m2d.recipe.explain import message_of

    if isinstance(error.__cause__, ValidationError):
        for details in error.__cause__.errors(include_url=False):
            word = details["input"]
            if isinstance(word, str) and details["type"] != "value_error":
                # A number is shown without quotes.
                got = int(word) if _WHOLE_NUMBER.fullmatch(word) else word
                message = message.replace(details["msg"], message_of({**details, "input": got}))
    return message


def _with_nearest_choice(message: str) -> str:
    """Add to the message for a word that an option does not know the nearest word that it knows."""
    found = _NO_CHOICE.search(message)
    if found is None:
        return message
    choices = re.findall("'([^']*)'", found["choices"])
    near = get_close_matches(found["got"].lower(), choices, n=1)
    return f"{message.removesuffix('.')}; did you mean {near[0]}?" if near else message


def _flag_meant(error: typer.TyperException) -> str:
    """Return the message for an option that other programs have, as `--guidance-scale`; empty for others."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if not option or context is None:
        return ""
    from m2d.recipe.schema import Recipe
    from m2d.recipe.suggestions import field_meant

    field = field_meant(option.lstrip("-"), Recipe)
    known = {name for parameter in context.command.params for name in parameter.opts}
    flag = flag_of(field)
    if flag in known:
        return f"No such option: {option}. Did you mean {flag}?"
    if field and "--set" in known:
        return f"No such option: {option}. Use --set {field}=VALUE."
    return ""


def _report(
    problems: Sequence[str],
    *,
    as_json: bool,
    exit_code: int,
    kind: str = "",
    error: M2DError | None = None,
) -> None:
    from m2d.cli.console import show_problems

    show_problems(problems)
    if as_json:
        name = kind or (type(error).__name__ if error is not None else "Error")
        _write("\n".join(problems), kind=name, exit_code=exit_code, error=error)


def _write(message: str, *, kind: str, exit_code: int, error: M2DError | None = None) -> None:
    from m2d.cli.console import write_json

    # Where several processes train together, the first one writes.
    if os.environ.get("RANK", "0") == "0":
        write_json(_document(message, kind=kind, exit_code=exit_code, error=error))


def _document(message: str, *, kind: str, exit_code: int, error: M2DError | None) -> dict[str, Any]:
    problems = error.problems if isinstance(error, RecipeError) else ()
    return {
        "error": {
            "kind": kind,
            "message": message,
            "exit_code": exit_code,
            "problems": [asdict(name_flag(problem)) for problem in problems],
        }
    }


def _with_commands(error: M2DError) -> list[str]:
    """Return the text of each problem, with the commands that export the missing graphs if it lists any."""
    if not hasattr(error, "requests"):
        return describe(error)
    from m2d.tasks.export import export_commands

    commands = "\n".join(f"  {line}" for line in export_commands(error).splitlines())  # type: ignore[arg-type]  # importing its class would import torch
    return [f"{error}\nexport first:\n{commands}"]
