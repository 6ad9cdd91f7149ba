"""Terminal output: progress, warnings, errors, results; the only file that imports rich.

Owns the look of text and keeps foreign text harmless: markup is never interpreted, and control characters
never reach the terminal. Tasks report through `m2d.progress.Reporter`.
"""

from __future__ import annotations

import json
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from m2d.cli.remedies import advise, describe, name_flag_in
from m2d.errors import Remedy
from m2d.garbage import no_collection
from m2d.progress import Reporter, StageProgress
from m2d.stop import ended_by_signals

NAME_WIDTH = 18
_NARROWEST_VALUE = 30
# A plain log gets a line per tenth of a stage, at intervals of 2 to 30 seconds.
_PLAIN_QUIET_S = 2.0
_PLAIN_SILENCE_S = 30.0
_SIGNS = {
    "done": ("\u2713", "ok"),
    "failed": ("\u2717", "x"),
    "sees": ("\u25a0", "#"),
    "blind": ("\u00b7", "."),
    "spinner": ("dots", "line"),
}


def plain_text(text: str, *, keep_newlines: bool = False) -> str:
    """Make foreign text harmless to print: control, format and surrogate characters become escapes."""
    return "".join(
        char if char.isprintable() or (keep_newlines and char == "\n") else _escape(char) for char in text
    )


def _escape(char: str) -> str:
    is_space = char in "\t\n\r" or unicodedata.category(char) == "Zs"
    return " " if is_space else char.encode("unicode_escape").decode("ascii")


def format_seconds(seconds: float) -> str:
    """Return a duration as `0.4 s`, `12 s`, `3 min 05 s` or `2 h 07 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_size(size_bytes: int) -> str:
    """Return a size as `812 B`, `84 KB` or `3.1 MB`, with decimal units as in file managers."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    size = size_bytes / 1000
    for unit in ("KB", "MB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def make_console(*, stderr: bool = True) -> Console:
    """Return a console that interprets nothing: no markup, no emoji codes, no automatic colouring."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


def make_reporter(*, quiet: bool = False) -> Reporter:
    """Return the reporter for this stderr: live on a terminal, else plain lines; only warnings if `quiet`."""
    if quiet:
        return QuietReporter()
    console = make_console()
    return LiveReporter(console) if console.is_terminal else PlainReporter(console)


@contextmanager
def loading_libraries(reporter: Reporter) -> Iterator[None]:
    """Report the stage in which a command imports large libraries."""
    with reporter.stage("load libraries"), no_collection(), ended_by_signals():
        yield


def write_result(path: Path) -> None:
    """Write the path of a result to stdout, for programs to read."""
    _write_line(plain_text(str(path)))


def write_json(document: object) -> None:
    """Write a document to stdout as JSON; a dataclass becomes an object of its fields, a path its text."""
    _write_line(json.dumps(document, indent=2, default=_as_json))


def _as_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form here")


def _write_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def show_error(error: BaseException | str) -> None:
    """Show a failure on stderr, one red line per problem."""
    show_problems([error] if isinstance(error, str) else describe(error))


def show_problems(problems: Sequence[str]) -> None:
    """Show the text of each problem on stderr, its first line in red after `error: `."""
    console = make_console()
    for problem in problems:
        lines = plain_text(problem, keep_newlines=True).splitlines() or ["unknown"]
        console.print(Text.assemble(("error: ", "bold red"), (lines[0], "red")))
        for line in lines[1:]:
            console.print(Text(f"  {line.strip()}", style="red"))


def show_hint(text: str) -> None:
    """Show one line of advice on stderr."""
    make_console().print(Text(plain_text(text), style="dim"))


class QuietReporter:
    """Shows only warnings."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or make_console()

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Run the stage without output."""
        del name, total
        yield _QuietStage()

    def note(self, message: str) -> None:
        """Drop the note."""

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        """Show the warning."""
        text = plain_text(advise(name_flag_in(message), remedy))
        self._console.print(Text.assemble(("warning: ", "bold yellow"), text))


class _QuietStage:
    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        del amount, detail


class PlainReporter(QuietReporter):
    """Writes plain lines, for logs, pipes and CI."""

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Print the stage's name, its progress from time to time, and its duration."""
        began_s = time.monotonic()
        stage = _PlainStage(self._console, plain_text(name), total)
        self._console.print(Text(f"{plain_text(name)} ..."))
        yield stage
        self._console.print(Text(f"{plain_text(name)}: done in {format_seconds(time.monotonic() - began_s)}"))

    def note(self, message: str) -> None:
        """Show the note."""
        self._console.print(Text(plain_text(message)))


class _PlainStage:
    def __init__(self, console: Console, name: str, total: int | None) -> None:
        self._console, self._name, self._total = console, name, total
        self._done = self._shown = 0
        self._shown_at_s = time.monotonic()

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        self._done += amount
        if self._done == self._total or not self._is_due():
            return
        self._shown, self._shown_at_s = self._done, time.monotonic()
        count = f"{self._done}/{self._total}" if self._total else str(self._done)
        self._console.print(Text(f"{self._name}: {count}  {plain_text(detail)}".rstrip()))

    def _is_due(self) -> bool:
        waited_s = time.monotonic() - self._shown_at_s
        moved = self._total is None or (self._done - self._shown) * 10 >= self._total
        return waited_s >= _PLAIN_SILENCE_S or (moved and waited_s >= _PLAIN_QUIET_S)


class LiveReporter(QuietReporter):
    """Shows the running stage as a live line and prints one line for each finished stage."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn(" "),
            SpinnerColumn(_sign(console, "spinner"), style="cyan"),
            TextColumn(f"{{task.description:<{NAME_WIDTH - 1}}}", markup=False),
            BarColumn(bar_width=28, style="bright_black", complete_style="cyan", pulse_style="cyan"),
            _CountColumn(),
            console=console,
            transient=True,
        )
        self._num_open = 0

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        """Show the stage while it runs; stages may nest."""
        began_s = time.monotonic()
        task = self._progress.add_task(plain_text(name), total=total, detail="")
        self._num_open += 1
        self._progress.start()
        sign, style = "failed", "red"
        try:
            yield _LiveStage(self._progress, task)
            sign, style = "done", "green"
        finally:
            finished = self._progress.tasks[self._progress.task_ids.index(task)]
            self._progress.remove_task(task)
            self._num_open -= 1
            if not self._num_open:
                self._progress.stop()
            self._console.print(self._closing_line(finished, (sign, style), time.monotonic() - began_s))

    def note(self, message: str) -> None:
        """Show the note above the running stage."""
        self._console.print(Text(f"    {plain_text(message)}", style="dim"))

    def _closing_line(self, task: ProgressTask, sign: tuple[str, str], spent_s: float) -> Text:
        name = task.description.ljust(NAME_WIDTH)
        return Text.assemble(
            "  ",
            (_sign(self._console, sign[0]), sign[1]),
            f" {name}",
            (format_seconds(spent_s).rjust(10), "dim"),
            (f"   {task.fields['detail']}", "dim"),
        )


class _LiveStage:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        self._progress.update(self._task, advance=amount, detail=plain_text(detail))


class _CountColumn(TextColumn):
    """`14/25  6 s left  loss 0.061`, without the parts that are unknown."""

    def __init__(self) -> None:
        super().__init__("", markup=False)

    def render(self, task: ProgressTask) -> Text:
        parts = [(f"{int(task.completed)}/{int(task.total)}" if task.total else "", "")]
        if task.time_remaining is not None and not task.finished:
            parts.append((f"{format_seconds(task.time_remaining)} left", "cyan"))
        elif task.elapsed is not None:
            parts.append((format_seconds(task.elapsed), "dim"))
        parts.append((task.fields["detail"], "dim"))
        return Text("  ").join(Text(text, style=style) for text, style in parts if text)


def _sign(console: Console, name: str) -> str:
    fancy, plain = _SIGNS[name]
    return fancy if console.encoding.lower().startswith("utf") else plain


def show_fields(rows: Sequence[tuple[str, str]], *, stderr: bool = False) -> None:
    """Show aligned `name  value` rows.

    On a terminal long values are wrapped within their column; elsewhere every row is one line.
    """
    console = make_console(stderr=stderr)
    width = max(len(plain_text(name)) for name, _ in rows)
    for name, value in rows:
        _print_row(console, Text(f"  {plain_text(name):<{width}}  ", style="dim"), value)


def show_columns(title: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Show rows of a name and aligned cells on stdout, below a row of headings."""
    lines = [(title, heads), *rows]
    widths = [max(map(len, column)) for column in zip(*(cells for _, cells in lines), strict=True)]
    show_fields(
        [
            (name, "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)))
            for name, cells in lines
        ]
    )


def show_states(rows: Sequence[tuple[str, bool, str]]) -> None:
    """Show rows of name, whether it works, and explanation on stdout, each with a tick or a cross."""
    console = make_console(stderr=False)
    width = max(len(plain_text(name)) for name, _, _ in rows)
    for name, works, explanation in rows:
        sign, style = ("done", "green") if works else ("failed", "red")
        lead = Text.assemble("  ", (_sign(console, sign), style), f" {plain_text(name):<{width}}  ")
        _print_row(console, lead, explanation, style="dim" if works else "")


def _print_row(console: Console, lead: Text, value: str, *, style: str = "") -> None:
    lines = [plain_text(value)]
    if console.is_terminal:
        room = max(console.width - lead.cell_len, _NARROWEST_VALUE)
        lines = textwrap.wrap(lines[0], room) or [""]
    for index, line in enumerate(lines):
        row = Text.assemble(lead if not index else " " * lead.cell_len, (line, style))
        row.rstrip()
        console.print(row)


def show_mask(picture: Sequence[str]) -> None:
    """Show the lines of a mask on stdout: a filled square for each `#`."""
    console = make_console(stderr=False)
    for line in picture:
        row = Text("  ")
        for char in line:
            name = {"#": "sees", ".": "blind"}.get(char)
            row.append(_sign(console, name) if name else char, style="cyan" if char == "#" else "dim")
        console.print(row)


def show_heading(text: str, *, stderr: bool = False) -> None:
    """Show a bold line after a blank line."""
    console = make_console(stderr=stderr)
    console.print()
    console.print(Text(plain_text(text), style="bold"))


def show_gap() -> None:
    """Print a blank line on stderr if it is a terminal."""
    if (console := make_console()).is_terminal:
        console.print()
