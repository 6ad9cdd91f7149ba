"""What reaches the terminal: harmless text, calm progress, one line per problem."""

from __future__ import annotations

import io
import itertools

import pytest
from rich.console import Console

from m2d.cli import console as console_module
from m2d.cli.console import (
    LiveReporter,
    PlainReporter,
    QuietReporter,
    format_seconds,
    format_size,
    make_reporter,
    plain_text,
    show_error,
    show_fields,
)
from m2d.errors import InputError, Problem, RecipeError

NASTY = (
    "a cat [/]",
    "[link=https://example.org]x[/link]",
    "\x1b[31mred\x1b[0m",
    "\x9b2J",
    "bell\x07 and \x08 backspace",
    "right \u202eto left",
    "half \ud800 of a pair",
    "zero\u200bwidth",
    "line\u2028separator",
)


def _recording(*, terminal: bool) -> tuple[Console, io.StringIO]:
    buffer = io.StringIO()
    made = Console(
        file=buffer, force_terminal=terminal, width=100, markup=False, emoji=False, highlight=False
    )
    return made, buffer


@pytest.mark.parametrize("text", NASTY)
def test_foreign_text_holds_no_control_character_after_escaping(text: str) -> None:
    assert plain_text(text).isprintable()
    plain_text(text).encode("utf-8")


def test_escaping_keeps_ordinary_text_and_brackets() -> None:
    assert plain_text("a cat [/] \u00fcber caf\u00e9") == "a cat [/] \u00fcber caf\u00e9"


def test_line_breaks_become_spaces_unless_kept() -> None:
    assert plain_text("one\ntwo") == "one two"
    assert plain_text("one\ntwo", keep_newlines=True) == "one\ntwo"


@pytest.mark.parametrize("text", NASTY)
def test_every_reporter_survives_nasty_text(text: str) -> None:
    for kind, terminal in itertools.product((LiveReporter, PlainReporter, QuietReporter), (True, False)):
        console, buffer = _recording(terminal=terminal)
        reporter = kind(console)
        with reporter.stage(text, total=2) as stage:
            stage.advance(detail=text)
            reporter.note(text)
            reporter.warn(text)
        for line in text.splitlines():
            assert line not in buffer.getvalue() or line.isprintable()


@pytest.mark.parametrize("text", NASTY)
def test_errors_and_fields_survive_nasty_text(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_error(InputError(text))
    show_fields([(text, text)])
    output = capsys.readouterr()
    assert (output.out + output.err).replace("\n", "").isprintable()


def test_a_recipe_error_is_one_line_per_problem(capsys: pytest.CaptureFixture[str]) -> None:
    problems = [Problem(path="a.yaml", line=n, column=1, field="mask", message="wrong") for n in (3, 7)]
    show_error(RecipeError(problems))
    assert capsys.readouterr().err.splitlines() == [
        "error: a.yaml:3:1: mask: wrong",
        "error: a.yaml:7:1: mask: wrong",
    ]


def test_a_live_stage_leaves_one_line_behind() -> None:
    console, buffer = _recording(terminal=True)
    reporter = LiveReporter(console)
    with reporter.stage("denoise", total=2) as outer:
        outer.advance()
        with reporter.stage("inner") as inner:
            inner.advance(detail="scene 1")
    last = buffer.getvalue().splitlines()[-1]
    assert "denoise" in last
    assert "\u2713" in last


def test_a_failed_stage_is_not_ticked() -> None:
    console, buffer = _recording(terminal=True)
    reporter = LiveReporter(console)
    with pytest.raises(InputError, match="no"), reporter.stage("load"):
        raise InputError("no")
    assert "\u2717" in buffer.getvalue()
    assert "\u2713" not in buffer.getvalue()


def test_plain_progress_has_no_escape_sequences_and_few_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(step=0.5)
    monkeypatch.setattr(console_module.time, "monotonic", lambda: float(next(clock)))
    console, buffer = _recording(terminal=False)
    with PlainReporter(console).stage("denoise", total=1000) as stage:
        for _ in range(1000):
            stage.advance()
    lines = buffer.getvalue().splitlines()
    assert lines[0] == "denoise ..."
    assert lines[-1].startswith("denoise: done in ")
    assert "denoise: 100/1000" in lines or "denoise: 60/1000" in lines
    assert 5 < len(lines) < 30
    assert "\x1b" not in buffer.getvalue()


def test_quiet_says_warnings_only() -> None:
    console, buffer = _recording(terminal=False)
    reporter = QuietReporter(console)
    with reporter.stage("load") as stage:
        stage.advance()
    reporter.note("a note")
    reporter.warn("a warning")
    assert buffer.getvalue() == "warning: a warning\n"


def test_without_a_terminal_the_reporter_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = make_reporter()
    reporter.note("hello")
    assert isinstance(reporter, PlainReporter)
    assert capsys.readouterr().err == "hello\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")],
)
def test_durations_read_naturally(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(812, "812 B"), (1234, "1.2 KB"), (84_100, "84 KB"), (999_900, "1.0 MB"), (2_840_000_000, "2.8 GB")],
)
def test_sizes_read_naturally(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text
