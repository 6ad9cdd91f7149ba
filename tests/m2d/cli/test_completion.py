"""What the shell's Tab key offers, asked for as bash asks; `-V` and `m2d help`."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from m2d.cli.main import app


def offered(line: str) -> list[str]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_M2D_COMPLETE": "complete_bash"}
    return CliRunner().invoke(app, prog_name="m2d", env=asked).stdout.split()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "story.yaml",
        "walk.mp4",
        "notes.txt",
        "walk.m2d/run.json",
        "recipes/one.yaml",
        ".git/x.yaml",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("m2d gen", ["generate"]),
        ("m2d in", ["init", "inspect"]),
        ("m2d generate --se", ["--seed", "--seeds", "--set"]),
        ("m2d generate ", ["recipes/", "story.yaml"]),
        ("m2d generate recipes/", ["recipes/one.yaml"]),
        ("m2d check rec", ["recipes/", "recipes/one.yaml"]),
        ("m2d train ", ["recipes/", "story.yaml"]),
        ("m2d inspect ", ["recipes/", "walk.mp4"]),
        ("m2d extend nowhere/", []),
        ("m2d generate --model ", ["builtin:puppet", "builtin:puppet-large", "recipes/"]),
        ("m2d generate --backend e", ["eager"]),
        ("m2d generate --speed ", ["exact", "balanced", "fast"]),
        ("m2d generate --set sampling.s", ["sampling.scheduler=", "sampling.seed=", "sampling.speed="]),
    ],
)
def test_the_tab_key_offers_what_fits(line: str, words: list[str]) -> None:
    assert sorted(offered(line)) == sorted(words)


def test_the_version_and_the_help_have_short_forms() -> None:
    assert CliRunner().invoke(app, ["-V"]).stdout == CliRunner().invoke(app, ["--version"]).stdout
    for words in (["generate"], ["puppet", "train"]):
        asked = CliRunner().invoke(app, ["help", *words], prog_name="m2d")
        assert asked.stdout == CliRunner().invoke(app, [*words, "--help"], prog_name="m2d").stdout
    for words in (["help"], ["help", "help"]):
        assert CliRunner().invoke(app, words).stdout == CliRunner().invoke(app, ["--help"]).stdout


def test_help_for_what_does_not_exist_is_refused() -> None:
    result = CliRunner().invoke(app, ["help", "nope"], prog_name="m2d")
    assert (result.exit_code, "No such command 'nope'" in result.stderr) == (2, True)
