"""The boundary: exit codes, one line per problem, and what is imported for `m2d --help`."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner, Result

from m2d.cli.main import Boundary, app
from m2d.cli.system_errors import system_problem
from m2d.errors import BackendUnavailable, InputError, Interrupted, Problem, RecipeError
from m2d.reading import UnreadableFile


def invoke(error: BaseException, *words: str) -> Result:
    """Run a command that raises `error`."""
    failing = typer.Typer(cls=Boundary, rich_markup_mode=None, pretty_exceptions_enable=False)

    @failing.callback()
    def root() -> None:
        pass

    @failing.command()
    def fail(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        del as_json
        raise error

    return CliRunner().invoke(failing, ["fail", *words])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("bad"), 2),
        (BackendUnavailable("no cuda"), 3),
        (Interrupted("stopped"), 75),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (OSError(errno.EMFILE, "Too many open files", "a.json"), 1),
        (OSError(errno.EIO, "Input/output error", "a.json"), 1),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), 1),
        (RuntimeError("write failed: No space left on device"), 1),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), 2),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), 2),
        (UnreadableFile(Path("a.json"), "it is a pipe, not a regular file"), 2),
        (MemoryError(), 1),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory:\nyou tried"), 1),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), 1),
        (RuntimeError("can't start new thread"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_failure_has_its_exit_code_and_one_red_line(error: BaseException, code: int) -> None:
    result = invoke(error)
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_of_processes_that_train_together_the_first_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert invoke(InputError("bad")).stderr == "error: bad\n"
    assert not waits
    # Another process gives the launcher time to end it, and then speaks for itself.
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert invoke(InputError("bad")).stderr == "error: bad\n"
    assert len(waits) == 1
    stopped = invoke(Interrupted("stopped"))
    assert (stopped.stderr, stopped.exit_code) == ("", 75)


def test_all_problems_of_a_recipe_are_shown() -> None:
    problems = [Problem(path="a.yaml", line=n, column=2, field="mask", message="wrong") for n in (1, 2)]
    assert invoke(RecipeError(problems)).stderr.count("error: a.yaml:") == 2


def test_debug_shows_the_traceback_and_keeps_the_exit_code() -> None:
    result = invoke(InputError("bad"), "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: bad\n")


def test_a_bug_is_not_swallowed() -> None:
    result = invoke(ZeroDivisionError("a bug"))
    assert isinstance(result.exception, ZeroDivisionError)


def test_a_name_that_the_file_system_cannot_write_is_one_line() -> None:
    with pytest.raises(UnicodeEncodeError) as error:
        Path("\ud800.png").stat()
    problem = system_problem(error.value)
    assert problem is not None
    assert problem.exit_code == 2
    assert problem.message.startswith("\ud800.png: names of files are utf-8 here")
    # A text that was to be written otherwise is a bug.
    assert system_problem(UnicodeEncodeError("ascii", "\u00df", 0, 1, "no")) is None


def test_any_system_error_is_one_line() -> None:
    result = invoke(OSError(errno.EIO, "Input/output error", "film.mp4"))
    assert result.exit_code == 1
    assert result.stderr == "error: film.mp4: Input/output error\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stepz"], "No such option: --stepz"),
        (["generate", "a.yaml", "--num-inference-steps", "3"], "Did you mean --steps?"),
        (["eval", "a", "--out", "b", "--embedder", "Natral"], "--embedder': 'Natral' is not one of 'auto'"),
        (["eval", "a", "--out", "b", "--embedder", "Natral"], "'none'; did you mean natural?"),
        (["generate", "a.yaml", "--judge", "xyz"], "'cross_talk', 'smoothness'.\n"),
        (["generate", "a.yaml", "--guidance-scale", "3"], "Use --set sampling.guidance_scale=VALUE."),
        (["train", "a.yaml", "--xylophone", "3"], "No such option: --xylophone"),
        (["generat"], "No such command 'generat'"),
        (["reroll", "film.mp4"], "Missing option"),
        (["generate", "story.yaml", "--steps", "many"], "--steps': expected a whole number, got 'many'\n"),
        (["generate", "story.yaml", "--threads", "0"], "--threads': must be at least 1, got 0\n"),
        (["train", "a.yaml", "--max-minutes", "-1"], "--max-minutes': must be at least 0, got -1\n"),
        (["train", "a.yaml", "--max-minutes", "1h"], "--max-minutes': expected a number, got '1h'\n"),
        (["generate", "story.yaml", "--steps", "[/]\x1b[31m"], "--steps"),
        (["\x1b[31m[/]"], r"\x1b[31m[/]"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_a_hint(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "\x1b" not in result.stderr
    assert [line.split()[0] for line in result.stderr.splitlines()] == ["error:", "try"]


def test_without_a_command_the_help_is_shown() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "generate" in result.stdout


def test_a_group_without_a_command_shows_its_help() -> None:
    result = CliRunner().invoke(app, ["puppet"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_help_imports_neither_torch_nor_rich() -> None:
    program = (
        "import sys; from m2d.cli.main import app; sys.argv = ['m2d', '--help']\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'rich', 'numpy', 'pydantic'} & sys.modules.keys()\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_ctrl_c_while_the_command_line_is_imported_is_one_line(words: list[str]) -> None:
    program = """
import sys
class Pressed:
    def find_spec(self, name, path=None, target=None):
        if name == "m2d.cli.inspect":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.meta_path.insert(0, Pressed())
from m2d.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "error: stopped; no file was left half-written\n")
    assert ("Interrupted" in done.stdout) == bool(words)
