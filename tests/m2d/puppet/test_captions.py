from __future__ import annotations

import re

import numpy as np
import pytest

from m2d.puppet.captions import plain_caption, setting_text, varied_caption
from m2d.puppet.render import Clip
from m2d.puppet.story import sample_story
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.vocabulary import ACTION_PHRASES, ACTIONS, ACTORS, COLOURS, HATS, SETTINGS, SHAPES, TIMES
from m2d.recipe.cast import expand_prompt, scene_prompt
from tests.m2d.puppet.plain_stories import changing_clips, plain_clip

MAX_TOKENS = 36
NUM_DRAWS = 2000


def random_clip(index: int) -> Clip:
    story = sample_story(seed=21, index=index, num_scenes=1)
    return Clip(story, story.scenes[0])


@pytest.fixture(scope="module")
def varied() -> list[tuple[Clip, str]]:
    draw = np.random.default_rng(5)
    clips = [random_clip(index) for index in range(NUM_DRAWS)]
    return [(clip, varied_caption(clip.story, clip.scene, draw=draw)) for clip in clips]


def understood(caption: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """Read a caption word by word: the setting, and per actor its description and its action."""
    opening, rest = caption.split(". ", 1)
    phrases = {phrase: name for name, phrases in ACTION_PHRASES.items() for phrase in phrases}
    actors = {}
    for name, description, clause in re.findall(r"(Actor\d) \(([^)]*)\) ([a-z ]+)", rest):
        words = re.sub(r"\b(and|while|happily|slowly|again)\b", " ", clause).split()
        assert name not in actors, f"{name} is there twice: {caption}"
        actors[name] = (description, phrases[" ".join(words)])
    return opening.lower(), actors


def shown(clip: Clip) -> tuple[str, dict[str, tuple[str, str]]]:
    """What `understood` should find."""
    actors = {
        ACTORS[slot]: (clip.story.cast[slot].description, ACTIONS[action])
        for slot, action in enumerate(clip.scene.actions)
        if action is not None
    }
    return setting_text(clip.story.backdrop), actors


@pytest.mark.parametrize(
    ("clip", "caption"),
    [
        (plain_clip("jumps"), "Park at noon. Actor1 (round red body, wool cap) jumps."),
        (plain_clip(None, "waves", time=2), "Park at night. Actor2 (square blue body, no hat) waves."),
        (
            plain_clip("walks left", "stands still", setting=2, time=1),
            "Snowfield at dusk. Actor1 (round red body, wool cap) walks left. "
            "Actor2 (square blue body, no hat) stands still.",
        ),
    ],
)
def test_a_plain_caption_reads_as_a_person_would_write_it(clip: Clip, caption: str) -> None:
    assert plain_caption(clip.story, clip.scene) == caption


def test_every_caption_names_the_setting_of_its_own_scene() -> None:
    openings = ["Park at noon.", "Beach at night.", "Park at noon."]
    draw = np.random.default_rng(5)
    for clip, opening in zip(changing_clips(), openings, strict=True):
        assert plain_caption(clip.story, clip.scene).startswith(opening)
        assert varied_caption(clip.story, clip.scene, draw=draw).startswith(opening)


def test_a_plain_caption_names_exactly_what_is_on_stage() -> None:
    for clip in map(random_clip, range(300)):
        assert understood(plain_caption(clip.story, clip.scene)) == shown(clip)


def test_a_recipe_expands_to_the_plain_caption() -> None:
    """What a user's story becomes is what the model was trained to read."""
    for clip in map(random_clip, range(300)):
        cast = dict(zip(ACTORS, (actor.description for actor in clip.story.cast), strict=True))
        written = " ".join(
            f"{ACTORS[slot]} {ACTIONS[action]}."
            for slot, action in enumerate(clip.scene.actions)
            if action is not None
        )
        expanded = scene_prompt(written, cast=cast, setting=setting_text(clip.story.backdrop))
        assert expanded == plain_caption(clip.story, clip.scene)
        assert expand_prompt(expanded, cast) == expanded


def test_varied_captions_say_the_same_as_what_is_on_stage(varied: list[tuple[Clip, str]]) -> None:
    for clip, caption in varied:
        assert understood(caption) == shown(clip), caption


def test_varied_captions_fit_and_have_no_unknown_word(varied: list[tuple[Clip, str]]) -> None:
    tokenizer = build_tokenizer(max_text_tokens=MAX_TOKENS)
    for ids in tokenizer([caption for _, caption in varied])["input_ids"]:
        assert len(ids) <= MAX_TOKENS
        assert tokenizer.unk_token_id not in ids


def test_varied_captions_vary(varied: list[tuple[Clip, str]]) -> None:
    texts = [caption for _, caption in varied]
    for phrase in (phrase for phrases in ACTION_PHRASES.values() for phrase in phrases):
        assert any(phrase in text for text in texts), phrase
    for joint in (" and ", " while ", " happily", " slowly", " again"):
        assert any(joint in text for text in texts), joint
    assert any(
        text.index("Actor2") < text.index("Actor1") for text in texts if "Actor1" in text and "Actor2" in text
    )


def test_the_same_draw_gives_the_same_wording() -> None:
    clip = random_clip(3)
    first, again = (varied_caption(clip.story, clip.scene, draw=np.random.default_rng(8)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["tree", "sun", "horizon", "eyes", "size", "wide", "dots"])
def test_no_caption_mentions_what_prompts_never_name(name: str, varied: list[tuple[Clip, str]]) -> None:
    assert not any(re.search(rf"\b{name}\b", caption) for _, caption in varied)


def test_every_look_and_place_has_its_own_words() -> None:
    for words in (SETTINGS, TIMES, SHAPES, COLOURS, HATS, ACTIONS):
        assert len(set(words)) == len(words)
    meanings = [phrase for phrases in ACTION_PHRASES.values() for phrase in phrases]
    assert len(set(meanings)) == len(meanings)
    assert all(name in ACTION_PHRASES[name] for name in ACTIONS)
