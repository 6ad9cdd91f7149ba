"""The `m2d` command: registers the subcommands and turns failures into one red line and an exit code.

Importing this file must stay cheap (no torch, no diffusers, no rich), so that `m2d --help` is fast.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from m2d.cli.backends import app as backends
from m2d.cli.bench import bench
from m2d.cli.board import board
from m2d.cli.check import check
from m2d.cli.compare import compare
from m2d.cli.data import app as data
from m2d.cli.doctor import doctor
from m2d.cli.eval import evaluate
from m2d.cli.export import export
from m2d.cli.extend import extend
from m2d.cli.failures import EXIT_INTERRUPTED, end_failed, end_interrupted
from m2d.cli.generate import generate
from m2d.cli.heap import keep_freed_memory
from m2d.cli.init import init
from m2d.cli.inspect import inspect
from m2d.cli.models import app as models
from m2d.cli.puppet import app as puppet
from m2d.cli.reproduce import reproduce
from m2d.cli.reroll import reroll
from m2d.cli.streams import Streams, steady_streams
from m2d.cli.train import Resuming, train
from m2d.cli.verify import verify
from m2d.ending import no_finalization_in_a_group
from m2d.errors import EXIT_FAILED, InputError
from m2d.garbage import end_without_collection
from m2d.stop import was_interrupted

# Texts, which have checks of their own.
_MAY_BE_EMPTY = {"--prompt", "-p", "--context-prompt", "--title", "--set", "--cuts", "--join", "--seeds"}
# What these commands find out is on stdout alone; all others write files.
_REPORTING = {"check", "inspect", "verify", "bench", "doctor", "backends", "models", "help"}


class Boundary(TyperGroup):
    """The outermost group, which turns exceptions into messages."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command and exit with its code; with `standalone_mode=False`, exceptions pass."""
        # **extra: the signature of Typer.
        words = list(sys.argv[1:] if args is None else args)
        extra["windows_expand_args"] = windows_expand_args
        if not standalone_mode:
            return super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        debug = "--debug" in words
        words = [word for word in words if word != "--debug"]
        if words[:1] == ["help"]:
            words = [*(word for word in words if word != "help"), "--help"]
        try:
            _refuse_empty(words)
            code = super().main(words, prog_name, complete_var, standalone_mode=False, **extra)
        except Exception as error:
            code = end_failed(error, debug=debug, as_json="--json" in words)
        if code == EXIT_INTERRUPTED:
            code = end_interrupted(as_json="--json" in words)
        elif not code and was_interrupted():
            # The command is complete, and so is its JSON.
            code = end_interrupted(as_json=False)
        sys.exit(code if isinstance(code, int) else 0)


def _refuse_empty(words: Sequence[str]) -> None:
    """Raise InputError for an empty word, such as that of an unset variable: as a path it would mean `.`."""
    for before, word in pairwise(["", *words]):
        name = word[:-1] if word.startswith("--") and word.endswith("=") else before if not word else None
        if name is not None and name not in _MAY_BE_EMPTY:
            raise InputError(f"{name if name.startswith('-') else 'an argument'}: is empty; give a value")


app = typer.Typer(
    cls=Boundary,
    invoke_without_command=True,
    rich_markup_mode=None,  # plain help starts faster and does not interpret brackets
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        from m2d import __version__

        typer.echo(f"m2d {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere in the line.")
    ] = False,
) -> None:
    """Turn a story of several scenes into one coherent film."""
    del version, debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


for command in (init, check, generate, extend, reroll, reproduce, inspect, board, verify, bench, doctor):
    app.command()(command)
# The list of commands has room for a few words per command.
app.command(short_help="Train one stage of a model.", cls=Resuming)(train)
app.command("eval", short_help="Measure videos and write a report.")(evaluate)
app.command(short_help="Make stories with several methods, and measure them.")(compare)
app.command(short_help="Export the graphs of a story.")(export)
app.add_typer(backends, name="backends", short_help="List backends and exported graphs.")
app.add_typer(data, name="data", short_help="Build data sets from films.")
app.add_typer(models, name="models", short_help="Show the rules of models.")
app.add_typer(puppet, name="puppet", short_help="Train and pack the embedded model.")


def main() -> None:
    """Run `m2d`; the entry point of the console script."""
    keep_freed_memory()
    end_without_collection()
    with no_finalization_in_a_group(os.environ), steady_streams() as streams:
        try:
            app()
        except SystemExit as ending:
            sys.stdout.flush()
            if not ending.code:
                sys.exit(_code_for_lost_output(streams))
            raise


def _code_for_lost_output(streams: Streams) -> int:
    """Report that a part of stdout could not be written; return the exit code of the completed command."""
    if not streams.problem:
        return 0
    from m2d.cli.console import make_reporter, show_error

    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "help")
    message = f"stdout could not be written: {streams.problem}"
    if command in _REPORTING:
        show_error(message)
        return EXIT_FAILED
    make_reporter(quiet=True).warn(f"{message}; the command itself is complete")
    return 0


if __name__ == "__main__":
    main()
