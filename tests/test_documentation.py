"""README and docs are correct: recipes load, commands parse, lists are complete, links lead to files."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from m2d.cli.main import app
from m2d.families.source import resolve_model
from m2d.puppet.vocabulary import (
    ACTION_PHRASES,
    ACTIONS,
    COLOURS,
    HATS,
    KNOWN_WORDS,
    SETTINGS,
    SHAPES,
    TIMES,
    WORLD,
)
from m2d.recipe.loader import parse_document
from m2d.recipe.plan import plan_story
from m2d.recipe.schema import Recipe
from m2d.recipe.words import unknown_words

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text("utf-8")
FILMS = ROOT / "docs" / "films.md"
THEATRE = (ROOT / "docs" / "puppet.md").read_text("utf-8")
STORIES = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
# Made with the trained model, and only then.
PICTURES = ("docs/result.png", "docs/sheets")
HAS_MODEL = (ROOT / "m2d" / "puppet" / "weights" / "transformer").is_dir()


def blocks(page: Path, kind: str) -> list[str]:
    """The code blocks of one kind on a page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `m2d` command on a page, without the comment behind it."""
    typed = "\n".join(blocks(page, "sh"))
    typed += "\n".join(re.findall(r"^\$ (.*)$", "\n".join(blocks(page, "console")), flags=re.MULTILINE))
    for line in typed.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["m2d"]:
            yield words[1:]


def parse(command: Any, words: list[str]) -> None:
    """Parse a command line as `m2d` does, without running it."""
    if hasattr(command, "commands"):
        parse(command.commands[words[0]], words[1:])
    else:
        command.make_context(command.name, words)


@pytest.mark.parametrize("text", STORIES, ids=["first story", "official weights"])
def test_the_readme_s_stories_are_correct_recipes(text: str) -> None:
    recipe = parse_document(text, Recipe, name="README.md").value
    assert len(recipe.scenes) == 3


def test_the_readme_s_first_story_uses_only_words_that_the_theatre_knows() -> None:
    recipe = parse_document(STORIES[0], Recipe, name="README.md").value
    texts = [recipe.setting or "", *recipe.cast.values(), *(scene.prompt for scene in recipe.scenes)]
    assert [word for text in texts for word in unknown_words(text, KNOWN_WORDS)] == []
    assert recipe.output is None
    assert "a-walk-by-the-sea.mp4" in README


def test_the_readme_has_at_most_200_lines() -> None:
    assert len(README.splitlines()) <= 200


def test_the_readme_lists_every_command() -> None:
    group = typer.main.get_command(app)
    listed = re.findall(r"^\| `m2d (\w+)` \|", README, flags=re.MULTILINE)
    assert sorted(listed) == sorted(group.commands)  # type: ignore[attr-defined]  # a group


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("settings", SETTINGS),
        ("times", [f"at {time}" for time in TIMES]),
        ("bodies", [*SHAPES, *COLOURS]),
        ("hats", HATS),
        ("actions", ACTIONS),
        (
            "other words for them",
            [phrase for name, phrases in ACTION_PHRASES.items() for phrase in phrases if phrase != name],
        ),
    ],
)
def test_the_page_on_the_theatre_lists_every_word_that_it_knows(row: str, words: list[str]) -> None:
    found = re.search(rf"^\| {row} \| (.*) \|$", THEATRE, flags=re.MULTILINE)
    assert found
    assert re.split(r"[,;] ", found[1]) == list(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text("utf-8")):
        path = (page.parent / target).resolve()
        if "://" in target or (not HAS_MODEL and str(path.relative_to(ROOT)) in PICTURES):
            continue
        assert path.exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_command_names_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    named = re.findall(r"\brecipes/[\w./-]+\.yaml", text)
    named += [f"benchmarks/{name}.py" for name in re.findall(r"-m benchmarks\.(\w+)", text)]
    for name in named:
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_has_the_options_that_it_is_given(page: Path) -> None:
    for words in commands(page):
        try:
            parse(typer.main.get_command(app), words)
        except typer.TyperException as error:
            pytest.fail(f"{page.name}: m2d {shlex.join(words)}: {error}")


def test_the_page_on_films_shows_all_commands_that_make_or_show_one() -> None:
    shown = {words[0] for words in commands(FILMS)}
    assert {"check", "generate", "extend", "reroll", "inspect", "board"} <= shown
    readme = {words[0] for words in commands(ROOT / "README.md")}
    assert {"generate", "extend", "reroll", "board"} <= readme


def test_the_recipe_of_the_page_on_films_can_be_made_by_the_puppet_theatre() -> None:
    (text,) = blocks(FILMS, "yaml")
    loaded = parse_document(text, Recipe, name="films.md")
    source = resolve_model(loaded.value.model)
    plan = plan_story(loaded.value, source, places=loaded.places, world=WORLD)
    # One scene has a length of its own, which m2d warns about.
    assert [warning for warning in plan.warnings if "scenes[3].frames: 21" not in warning] == []
    assert {scene.join.kind for scene in plan.scenes} == {"cut", "continue", "crossfade"}


def test_what_the_page_on_films_says_m2d_check_shows_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    # The command in the block names a path relative to the root.
    monkeypatch.chdir(ROOT)
    (block,) = (block for block in blocks(FILMS, "console") if block.startswith("$ m2d check"))
    command, *expected = block.splitlines()
    shown = CliRunner().invoke(app, shlex.split(command)[2:]).stdout.splitlines()
    assert [line for line in expected if line not in ("", "  ...") and line not in shown] == []
