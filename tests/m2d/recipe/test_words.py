"""Words that the puppet models do not know: one plain statement, and only sensible suggestions."""

from __future__ import annotations

from typing import Any

import pytest

from m2d.puppet.vocabulary import WORLD
from m2d.recipe.schema import Recipe
from m2d.recipe.words import word_warnings

STATEMENT = "this model draws only puppets (settings: park, desert, snowfield, beach, city, forest, at noon"


def warnings(*prompts: str, **story: Any) -> list[tuple[str, str]]:
    """Return field and message of every warning about words."""
    fields = {"title": "A story", "cast": {"Actor1": "round red body, no hat"}, "setting": "park at noon"}
    recipe = Recipe.model_validate({**fields, "scenes": prompts, **story})
    found = word_warnings(recipe, WORLD)
    return [(".".join(map(str, key_path)), message) for key_path, message in found]


def unknown(word: str, hint: str = "") -> str:
    return f"the model does not know the word '{word}'" + (f"; did you mean {hint}?" if hint else "")


def test_a_story_of_known_words_gets_no_warning() -> None:
    assert warnings("Actor1 walks to the right.", "Actor1 waves happily while Actor1 jumps.") == []


@pytest.mark.parametrize(
    ("prompt", "word", "hint"),
    [
        ("Actor1 walks rigt.", "rigt", "right"),
        ("Actor1 jumsp.", "jumsp", "jumps"),
        ("Actor1 waive again.", "waive", ""),
        ("Actor1 jump again.", "jump", "jumps"),
        ("Actor1 bow slowly.", "bow", "bows"),
        ("Actor1 wavves.", "wavves", "waves"),
        ("Actor1 is at the right.", "is", ""),
        ("A fat Actor1 waves.", "fat", ""),
        ("Actor1 walks at a sand.", "sand", ""),
        # A colour or a place is no action.
        ("Actor1 waves to the dark.", "dark", ""),
        ("Actor1 jumps, whit Actor1.", "whit", ""),
    ],
)
def test_only_a_misspelt_word_of_its_kind_is_suggested(prompt: str, word: str, hint: str) -> None:
    found = warnings(prompt)
    named = [each for each in found if not each[1].startswith(STATEMENT)]
    assert named == [("scenes.0.prompt", unknown(word, hint))]
    # A mere slip needs no word about the model's world.
    assert (len(found) == 2) == (hint == "")


def test_every_field_has_its_own_kind_of_words() -> None:
    found = warnings("Actor1 waves.", cast={"Actor1": "rond yelow body, wol cap"}, setting="forst at nigth")
    assert found == [
        ("cast.Actor1", str(WORLD)),
        ("cast.Actor1", unknown("rond", "round")),
        ("cast.Actor1", unknown("yelow", "yellow")),
        # Too short to be taken for wool.
        ("cast.Actor1", unknown("wol")),
        ("setting", unknown("forst", "forest")),
        ("setting", unknown("nigth", "night")),
    ]


def test_the_statement_comes_once_and_first_with_what_to_use_instead() -> None:
    found = warnings("Actor1 waves to a dragon.", "Actor1 jumps.", "Actor1 waves to the princess.")
    assert [message.startswith(STATEMENT) for _, message in found] == [True, False, False]
    assert found[0][1].endswith("; a CogVideoX folder as the model draws all else")
    assert found[1:] == [
        ("scenes.0.prompt", unknown("dragon")),
        ("scenes.2.prompt", unknown("princess")),
    ]


@pytest.mark.parametrize(
    "prompt",
    [
        "Actor1 \u0438\u0434\u0451\u0442 \u043d\u0430\u043f\u0440\u0430\u0432\u043e.",
        "Actor1\u5411\u53f3\u8d70\u3002",
        "Actor1 \u2192 \u0632",
        "Actor1 camina hacia la derecha y saluda.",
        "\U0001f389",
        "Actor1 geht nach rechts und winkt.",
        "An old man with a beard climbs the stairs of his lighthouse.",
    ],
)
def test_another_language_or_world_gets_the_statement_alone(prompt: str) -> None:
    ((field, message),) = warnings(prompt, setting=None)
    assert field == "scenes.0.prompt"
    assert message.startswith(STATEMENT)


def test_an_actor_of_any_name_is_not_another_language() -> None:
    found = warnings(
        "\u041c\u0438\u0448\u0430 walks right.", cast={"\u041c\u0438\u0448\u0430": "tall red body"}
    )
    assert found[-1] == ("scenes.0.prompt", unknown("\u043c\u0438\u0448\u0430"))


def test_many_unknown_words_are_counted() -> None:
    words = " ".join(f"word{number} the" for number in range(25))
    found = warnings(f"Actor1 waves {words}.")
    assert len(found) == 22
    assert found[-1] == ("", "5 more words are unknown to the model")
