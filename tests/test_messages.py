"""Rooms below the commands name no flag and no command: their errors carry a `Remedy`, which the CLI words.

Reads the sources as syntax trees; docstrings may name commands.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d.cli.remedies import advise, describe
from m2d.errors import BackendError, InputError, Problem, RecipeError, Remedy

ROOT = Path(__file__).resolve().parents[1]
CLI = ROOT / "m2d/cli"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
COMMAND = re.compile(
    r"\bm2d (backends|bench|board|check|doctor|export|extend|generate|init|inspect|puppet|reroll|train"
    r"|verify)\b"
)

ABOVE = {"m2d/cli", "m2d/tasks", "m2d/__main__.py"}
EXEMPT = {
    "m2d/recipe/overrides.py",  # its problems are those of flags
    "m2d/recipe/template.py",  # a text for users of the command line, which `m2d init` writes
    "m2d/training/templates",
    "m2d/puppet/story.py",  # a seed: its text decides which stories exist
}


def low_files() -> Iterator[Path]:
    for path in [*(ROOT / "m2d").rglob("*.py"), *(ROOT / "backends/m2d_backends").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if not any(name == other or name.startswith(f"{other}/") for other in ABOVE | EXEMPT):
            yield path


def flags_of_m2d() -> set[str]:
    """The flags that a text in the CLI's sources names: `hf download --local-dir` is another program's."""
    return {flag for path in CLI.glob("*.py") for flag in FLAG.findall(path.read_text("utf-8"))}


def strings(tree: ast.AST) -> Iterator[ast.Constant]:
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node


def named_in(text: str, flags: set[str]) -> list[str]:
    """The flags and commands of m2d that `text` names."""
    return [*(flags & set(FLAG.findall(text))), *(match[0] for match in COMMAND.finditer(text))]


@pytest.mark.parametrize(
    ("text", "is_named"),
    [
        ("exists already; replace it with --force", True),
        ("`m2d doctor` shows what works", True),
        ("--resume latest: no checkpoint", True),
        ("hf download NAME --local-dir DIR", False),
        ("m2d works with DeepSpeed 0.16", False),
        ("a story -- a long one", False),
    ],
)
def test_flags_and_commands_are_recognised(text: str, is_named: bool) -> None:
    assert bool(named_in(text, flags_of_m2d())) is is_named


def test_rooms_below_the_commands_name_no_flag_and_no_command() -> None:
    flags = flags_of_m2d()
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {named_in(str(node.value), flags)}"
        for path in low_files()
        for node in strings(ast.parse(path.read_text("utf-8")))
        if named_in(str(node.value), flags)
    ]
    assert not wrong, "use a Remedy (m2d/errors.py, m2d/cli/remedies.py):\n" + "\n".join(wrong)


@pytest.mark.parametrize("remedy", Remedy)
def test_the_command_line_has_words_for_every_remedy(remedy: Remedy) -> None:
    assert advise("wrong", remedy).startswith("wrong; ")


def test_a_remedy_follows_the_first_line_of_a_message() -> None:
    error = BackendError("no graph\nrefused: it is old", remedy=Remedy.SHOW_DOCTOR)
    assert describe(error) == ["no graph; `m2d doctor` shows what works here\nrefused: it is old"]


def test_an_argument_at_fault_is_shown_as_its_flag() -> None:
    error = InputError("7 is not in the film", argument="context_prompt")
    assert str(error) == "context_prompt: 7 is not in the film"
    assert describe(error) == ["--context-prompt: 7 is not in the film"]


def test_a_recipes_problems_are_shown_one_by_one() -> None:
    problem = Problem(path="story.yaml", line=0, column=0, field="", message="no such file")
    error = RecipeError([problem], remedy=Remedy.WRITE_RECIPE)
    assert describe(error) == ["story.yaml: no such file; `m2d init` writes a recipe to start from"]
    assert describe(RecipeError([problem, problem])) == ["story.yaml: no such file"] * 2
