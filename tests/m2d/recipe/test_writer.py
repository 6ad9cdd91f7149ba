"""Recipes as YAML, read back by the strict loader."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from m2d.recipe.fields import MAX_SEED
from m2d.recipe.loader import parse_document
from m2d.recipe.places import forbidden_character, shows_nothing
from m2d.recipe.schema import (
    MAX_NUM_FRAMES,
    BackendChoice,
    Crossfade,
    LoraChoice,
    Recipe,
    Sampling,
    Scene,
    Video,
)
from m2d.recipe.writer import to_yaml

_TRICKY_TEXTS = """\
no 1e3 0o17 0x1F 014 ~ null .nan true = ' " * & ! > | % @ ` : --- ... << [a] {a} a,b a: *a &a !t ? - # a#b \\
\u00e9 \ufeff \U0001f600
"""
_TRICKY = st.sampled_from([*_TRICKY_TEXTS.split(), "- a", "a: b", "a #b", "? x"])
_WORDS = (
    st.lists(_TRICKY | st.text(min_size=1, max_size=8), min_size=1, max_size=5)
    .map(lambda parts: " ".join(" ".join(parts).split()))
    .filter(
        lambda text: (
            not shows_nothing(text) and forbidden_character(text) is None and "actor" not in text.lower()
        )
    )
)
_SEEDS = st.integers(0, MAX_SEED)
_SCALES = st.floats(0, 100)
_LENGTHS = st.integers(1, MAX_NUM_FRAMES)
_NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_RECIPES = st.builds(
    Recipe,
    title=_WORDS,
    model=st.sampled_from(["builtin:puppet", "models/CogVideoX-5b", "C:/my models/x", "no", "../x"]),
    loras=st.lists(
        st.builds(
            LoraChoice,
            path=st.sampled_from(["a.safetensors", "C:/x, y.safetensors", "no"]),
            scale=st.sampled_from([1.0, 0.8, -2.0, 1e-9]),
            scenes=st.sampled_from([None, (1,)]),
            sha256=st.sampled_from([None, "0" * 64]),
        ),
        max_size=2,
    ).map(tuple),
    cast=st.dictionaries(_NAMES, _WORDS, max_size=3),
    setting=_maybe(_WORDS),
    scenes=st.lists(
        st.builds(
            Scene,
            setting=_maybe(_WORDS),
            prompt=_WORDS,
            negative_prompt=_maybe(st.just("") | _WORDS),
            guidance_scale=_maybe(_SCALES),
            seed=_maybe(_SEEDS),
            frames=_maybe(_LENGTHS),
            join=_maybe(st.sampled_from(["cut", "continue"]) | st.builds(Crossfade, crossfade=_LENGTHS)),
            match_colour=_maybe(st.booleans()),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
    sampling=st.builds(
        Sampling, scheduler=st.sampled_from([None, "dpm++"]), guidance_scale=_SCALES, seed=_SEEDS
    ),
    video=st.builds(
        Video, num_frames=_maybe(_LENGTHS), upscale=st.integers(1, 8), match_colour=st.booleans()
    ),
    mask=st.sampled_from(["mask2dit", "window:3", "full"]),
    backend=st.builds(BackendChoice, device=st.sampled_from(["cpu", "cuda:1"])),
    output=st.sampled_from([None, "x.mp4", "\u00e9t\u00e9 1.mp4"]),
)


@settings(max_examples=40, deadline=None)
@given(_RECIPES)
def test_a_written_recipe_is_read_back_equal(recipe: Recipe) -> None:
    assert parse_document(to_yaml(recipe), Recipe, name="story.yaml").value == recipe


@pytest.mark.long
@settings(max_examples=1000, deadline=None)
@given(_RECIPES)
def test_thousands_of_written_recipes_are_read_back_equal(recipe: Recipe) -> None:
    assert parse_document(to_yaml(recipe), Recipe, name="story.yaml").value == recipe


def test_a_plain_story_is_written_the_way_a_person_would() -> None:
    recipe = Recipe(
        title="First snow",
        cast={"Actor1": "round red body, wool cap"},
        setting="snowfield at dusk",
        scenes=(Scene(prompt="Actor1 walks right."), Scene(prompt="It's cold: Actor1 waits.", seed=3)),
        sampling=Sampling(seed=7),
    )
    assert to_yaml(recipe, header="Made by hand.\n\nTwice.") == (
        "# Made by hand.\n#\n# Twice.\n"
        "title: First snow\n"
        "model: builtin:puppet-large\n"
        "cast:\n"
        "  Actor1: round red body, wool cap\n"
        "setting: snowfield at dusk\n"
        "scenes:\n"
        "  - Actor1 walks right.\n"
        '  - prompt: "It\'s cold: Actor1 waits."\n'
        "    seed: 3\n"
        "sampling:\n"
        "  seed: 7\n"
    )


def test_joins_are_written_the_way_a_person_would() -> None:
    scenes = (
        Scene(prompt="a", join="continue", frames=17),
        Scene(prompt="b", join=Crossfade(crossfade=4), match_colour=False),
    )
    written = to_yaml(Recipe(title="x", scenes=scenes, video=Video(match_colour=True)))
    assert written.split("scenes:\n")[1] == (
        "  - prompt: a\n    frames: 17\n    join: continue\n"
        "  - prompt: b\n    join: {crossfade: 4}\n    match_colour: false\n"
        "video:\n  match_colour: true\n"
    )
