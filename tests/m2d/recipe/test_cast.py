"""The cast inside prompts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.recipe.cast import (
    expand_prompt,
    other_brackets,
    respell_actors,
    scene_prompt,
    shorten_prompt,
    unknown_actors,
)

CAST = {
    "Actor1": "round red body, wool cap",
    "Actor12": "tall blue body (thin), no hat",
    "Actor2": "a friend of Actor1",
}
ONE = "Actor1 (round red body, wool cap)"
TWELVE = "Actor12 (tall blue body (thin), no hat)"


@pytest.mark.parametrize(
    ("prompt", "expanded"),
    [
        ("Actor1 walks right", f"{ONE} walks right"),
        ("Actor1 waves. Actor1 bows.", f"{ONE} waves. {ONE} bows."),
        ("Actor12 and Actor1's dog", f"{TWELVE} and {ONE}'s dog"),
        (f"{ONE} waves. Actor1 bows.", f"{ONE} waves. {ONE} bows."),
        ("Actor1 (Round Red Body, wool cap) waves.", "Actor1 (Round Red Body, wool cap) waves."),
        ("Actor1 (left) waves.", f"{ONE} (left) waves."),
        ("Actor2 waves.", "Actor2 (a friend of Actor1) waves."),
        ("Actor123 and MyActor1 and Actor1st", "Actor123 and MyActor1 and Actor1st"),
        ("A dog runs.", "A dog runs."),
        (r"Actor1 \1 \g<0>", rf"{ONE} \1 \g<0>"),
    ],
)
def test_every_bare_mention_gets_its_description(prompt: str, expanded: str) -> None:
    assert expand_prompt(prompt, CAST) == expanded


_PIECES = st.sampled_from(
    ["Actor1", "Actor12", "Actor2", ONE, TWELVE, " ", ". ", "(", ")", "waves", "actor1", "'s"]
)


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_expanding_twice_is_expanding_once(prompt: str) -> None:
    once = expand_prompt(prompt, CAST)
    assert expand_prompt(once, CAST) == once


@given(st.lists(_PIECES, max_size=12).map("".join))
def test_a_shortened_prompt_expands_to_the_same(prompt: str) -> None:
    expanded = expand_prompt(prompt, CAST)
    assert expand_prompt(shorten_prompt(expanded, CAST), CAST) == expanded


def test_a_shortened_prompt_names_actors_only() -> None:
    assert shorten_prompt(f"{ONE} meets {TWELVE}.", CAST) == "Actor1 meets Actor12."


def test_the_setting_opens_the_prompt() -> None:
    assert (
        scene_prompt("Actor1 waves.", cast=CAST, setting="snowfield at dusk")
        == f"Snowfield at dusk. {ONE} waves."
    )
    assert scene_prompt("Actor1 waves.", cast=CAST, setting="A place.") == f"A place. {ONE} waves."
    assert scene_prompt("Actor1 waves.", cast=CAST, setting=None) == f"{ONE} waves."


def test_actors_outside_the_cast_are_found_whatever_their_case() -> None:
    assert unknown_actors("Actor1 meets Actor3, actor1, ACTOR3 and Actor3.", CAST) == [
        "Actor3",
        "actor1",
        "ACTOR3",
    ]


def test_brackets_that_are_not_the_description_are_found() -> None:
    assert other_brackets(f"Actor1 (left) and {TWELVE}", CAST) == ["Actor1"]


def test_actors_are_respelled_as_in_the_cast() -> None:
    assert respell_actors("actor1 meets ACTOR12 and actor3", CAST) == "Actor1 meets Actor12 and actor3"
