"""README and docs say what is true: recipes load, commands and words are complete, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from m2d.cli.main import app
from m2d.puppet.vocabulary import ACTION_PHRASES, ACTIONS, COLOURS, HATS, KNOWN_WORDS, SETTINGS, SHAPES, TIMES
from m2d.recipe.loader import parse_document
from m2d.recipe.schema import Recipe
from m2d.recipe.words import unknown_words

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text("utf-8")
STORIES = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
# Made with the trained model, and only then.
PICTURES = ("docs/result.png", "docs/sheets")
HAS_MODEL = (ROOT / "m2d" / "puppet" / "weights" / "transformer").is_dir()


@pytest.mark.parametrize("text", STORIES, ids=["first story", "CogVideoX"])
def test_the_readme_s_stories_are_correct_recipes(text: str) -> None:
    recipe = parse_document(text, Recipe, name="README.md").value
    assert len(recipe.scenes) == 3


def test_the_readme_s_first_story_uses_only_words_that_the_theatre_knows() -> None:
    recipe = parse_document(STORIES[0], Recipe, name="README.md").value
    texts = [recipe.setting or "", *recipe.cast.values(), *(scene.prompt for scene in recipe.scenes)]
    assert [word for text in texts for word in unknown_words(text, KNOWN_WORDS)] == []
    assert recipe.output is None
    assert "a-walk-by-the-sea.mp4" in README


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
def test_the_readme_lists_every_word_of_the_theatre(row: str, words: list[str]) -> None:
    found = re.search(rf"^\| {row} \| (.*) \|$", README, flags=re.MULTILINE)
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
