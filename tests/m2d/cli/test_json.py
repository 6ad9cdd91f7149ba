"""With --json every command writes exactly one object to stdout, errors included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from m2d.cli.main import app
from m2d.errors import Interrupted
from tests.m2d.cli.conftest import Run
from tests.m2d.cli.test_main import invoke


def leaves(group: Any, *before: str) -> list[tuple[tuple[str, ...], Any]]:
    """All commands with their words."""
    found = []
    for name, command in group.commands.items():
        inner = (
            leaves(command, *before, name) if hasattr(command, "commands") else [((*before, name), command)]
        )
        found += inner
    return found


PAGE = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text("utf-8")
COMMANDS = leaves(typer.main.get_command(app))


def undocumented(document: dict[str, Any]) -> list[str]:
    """The keys of a document that the page on the command line does not name."""
    return [key for key in document if f"`{key}`" not in PAGE]


def test_every_command_can_write_json() -> None:
    without = [
        " ".join(words)
        for words, command in COMMANDS
        if not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert without == []


@pytest.mark.parametrize(
    ("words", "kind", "code"),
    [
        (["check", "none.yaml"], "RecipeError", 2),
        (["generate", "story.yaml", "--set", "sampling.sed=3"], "RecipeError", 2),
        (["generate", "story.yaml", "--backend", "nope"], "UnknownBackend", 2),
        (["generate"], "InputError", 2),
        (["generate", "story.yaml", "--stepz", "3"], "UsageError", 2),
        (["nope"], "UsageError", 2),
        (["inspect", "story.yaml"], "FilmError", 2),
        (["train", "none.yaml"], "RecipeError", 2),
        (["init", "story.yaml"], "OutputError", 2),
        (["export", "--backend", "onnx"], "InputError", 2),
    ],
)
def test_an_error_is_one_object(m2d: Run, words: list[str], kind: str, code: int) -> None:
    result = m2d(*words, "--json")
    document = json.loads(result.stdout)
    assert list(document) == ["error"]
    assert document["error"]["kind"] == kind
    assert document["error"]["exit_code"] == result.exit_code == code
    first = document["error"]["message"].splitlines()[0]
    assert f"error: {first}" in result.stderr


def test_the_problems_of_a_recipe_have_places(m2d: Run) -> None:
    Path("story.yaml").write_text("title: A\nscenes: [a]\nsampling:\n  steps: 3\n  seed: -1\n")
    document = json.loads(m2d("check", "story.yaml", "--json").stdout)
    assert [(each["line"], each["column"], each["field"]) for each in document["error"]["problems"]] == [
        (4, 3, "sampling.steps"),
        (5, 9, "sampling.seed"),
    ]
    document = json.loads(m2d("check", "story.yaml", "--json").stdout)
    assert document["error"]["problems"][0]["path"] == "story.yaml"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(Interrupted("SIGTERM: kept"), "Interrupted", 75), (KeyboardInterrupt(), "Interrupted", 130)],
)
def test_a_stopped_command_writes_an_object(error: BaseException, kind: str, code: int) -> None:
    result = invoke(error, "--json")
    written = json.loads(result.stdout)["error"]
    assert (written["kind"], written["exit_code"], result.exit_code) == (kind, code, code)


def test_a_bug_writes_an_object_and_keeps_its_traceback() -> None:
    result = invoke(ZeroDivisionError("a bug"), "--json")
    assert json.loads(result.stdout)["error"] == {
        "kind": "Bug",
        "message": "ZeroDivisionError: a bug",
        "exit_code": 1,
        "problems": [],
    }
    assert isinstance(result.exception, ZeroDivisionError)


def test_results_are_one_object(m2d: Run) -> None:
    assert json.loads(m2d("init", "new.yaml", "--json").stdout) == {"recipes": ["new.yaml"]}
    for words in (["check", "story.yaml"], ["doctor"], ["backends", "list"]):
        assert undocumented(json.loads(m2d(*words, "--json").stdout)) == []
    several = json.loads(m2d("check", "story.yaml", "new.yaml", "--json").stdout)
    assert [story["title"] for story in several["stories"]] == ["First snow", "My first story"]
    words = ["puppet", "render", "--stories", "1", "--scenes", "1", "--out", "data", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout) == {"dataset": "data/stories.jsonl"}
