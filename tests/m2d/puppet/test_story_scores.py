from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from m2d.evaluation.intervals import Tally, figure_of
from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.story import Actor, Story, sample_story
from m2d.puppet.story_scores import (
    CHANCE_DIFFERENCE,
    DIFFERENCES,
    EYES_AGREEMENT,
    story_clips,
    tally_leakage,
    tally_prompted,
    tally_unprompted,
)
from tests.m2d.puppet.readings import changed, perfect_reading, sample_stories, story_of

WALKS, JUMPS, WAVES, BOWS = 0, 2, 3, 5
# Actor1 alone walks, Actor2 alone waves, both jump.
PLOT = story_of((WALKS, None), (None, WAVES), (JUMPS, JUMPS))


def value(tally: Tally) -> float:
    return figure_of(tally).value


def test_perfect_scenes_score_one_and_leak_nothing() -> None:
    stories = sample_stories(20)
    reading = perfect_reading(stories)
    assert {value(each) for each in tally_prompted(stories, reading).values()} == {1.0}
    assert {value(each) for each in tally_leakage(stories, reading).values()} == {0.0}


def test_perfect_scenes_agree_on_what_no_prompt_names() -> None:
    stories = sample_stories(20)
    tallies = tally_unprompted(stories, perfect_reading(stories))
    assert value(tallies[EYES_AGREEMENT]) == 1.0
    assert max(value(tallies[key]) for key in DIFFERENCES.values()) == 0.0


def test_every_property_is_counted_as_often_as_it_is_asked_for() -> None:
    counts = {name: tally.counts_S.tolist() for name, tally in _prompted(perfect_reading([PLOT])).items()}
    assert counts == {
        "setting": [3.0],
        "time": [3.0],
        "on_stage": [3.0],
        "colour": [4.0],
        "shape": [4.0],
        "hat": [4.0],
        "action": [4.0],
    }


@pytest.mark.parametrize("name", ["setting", "time"])
def test_a_wrong_backdrop_costs_its_scene_alone(name: str) -> None:
    reading = perfect_reading([PLOT])
    wrong = changed(reading, 1, **{name: (int(reading.classes[name][1]) + 1) % 3})
    assert _wrong_share(wrong) == {name: pytest.approx(1 / 3)}


@pytest.mark.parametrize("name", ["colour", "shape", "hat"])
def test_a_wrong_look_costs_one_actor_of_one_scene(name: str) -> None:
    reading = perfect_reading([PLOT])
    wrong = changed(reading, 2, **{f"actor2_{name}": (int(reading.classes[f"actor2.{name}"][2]) + 1) % 4})
    assert _wrong_share(wrong) == {name: pytest.approx(1 / 4)}


def test_what_is_read_of_actors_off_stage_does_not_count() -> None:
    wrong = changed(perfect_reading([PLOT]), 0, actor2_colour=5, actor2_hat=3, actor2_action=BOWS)
    assert _wrong_share(wrong) == {}


def test_an_actor_that_is_not_seen_does_nothing_and_has_no_looks() -> None:
    wrong = changed(perfect_reading([PLOT]), 2, actor1_on_stage=0, actor1_colour=5)
    assert _wrong_share(wrong) == {"on_stage": pytest.approx(1 / 3), "action": pytest.approx(1 / 4)}
    assert _prompted(wrong)["colour"].counts_S.tolist() == [3.0]


def test_no_actor_seen_at_all_leaves_no_looks_to_judge() -> None:
    reading = perfect_reading([PLOT])
    for row in range(3):
        reading = changed(reading, row, actor1_on_stage=0, actor2_on_stage=0)
    assert figure_of(_prompted(reading)["hat"]).as_json()["value"] is None


def test_another_scenes_cast_leaks() -> None:
    assert _leaks(changed(perfect_reading([PLOT]), 0, actor2_on_stage=1)) == ["leakage", "leakage.cast"]


def test_an_actor_that_no_scene_names_is_wrong_but_no_leak() -> None:
    story = story_of((WALKS, None), (WAVES, None), (JUMPS, None))
    wrong = changed(perfect_reading([story]), 0, actor2_on_stage=1)
    assert value(tally_prompted([story], wrong)["on_stage"]) == pytest.approx(2 / 3)
    assert value(tally_leakage([story], wrong)["leakage"]) == 0.0


def test_another_scenes_action_leaks() -> None:
    assert _leaks(changed(perfect_reading([PLOT]), 0, actor1_action=JUMPS)) == ["leakage", "leakage.action"]


def test_an_action_that_no_scene_names_is_wrong_but_no_leak() -> None:
    assert _leaks(changed(perfect_reading([PLOT]), 0, actor1_action=BOWS)) == []


def test_the_other_actors_action_is_wrong_but_no_leak() -> None:
    # Actor2 waves in scene 2; Actor1 never does.
    assert _leaks(changed(perfect_reading([PLOT]), 0, actor1_action=WAVES)) == []


def test_an_action_asked_for_in_both_scenes_is_not_borrowed() -> None:
    story = story_of((WALKS, None), (WALKS, None), (JUMPS, None))
    assert value(tally_leakage([story], perfect_reading([story]))["leakage"]) == 0.0


def test_the_action_of_an_unseen_actor_cannot_leak() -> None:
    wrong = changed(perfect_reading([PLOT]), 0, actor1_on_stage=0, actor1_action=JUMPS)
    assert _leaks(wrong) == []


def test_scenes_in_the_wrong_order_leak_and_keep_the_backdrop() -> None:
    reading = perfect_reading([PLOT])
    moved = Reading(
        classes={name: column.roll(1) for name, column in reading.classes.items()}, numbers=reading.numbers
    )
    assert value(tally_leakage([PLOT], moved)["leakage"]) == 1.0
    figures = {name: value(each) for name, each in _prompted(moved).items()}
    assert figures["setting"] == figures["time"] == 1.0
    assert figures["on_stage"] == 0.0


def test_cast_and_action_leaking_in_one_scene_count_once() -> None:
    wrong = changed(perfect_reading([PLOT]), 0, actor2_on_stage=1, actor1_action=JUMPS)
    assert value(tally_leakage([PLOT], wrong)["leakage"]) == pytest.approx(1 / 3)


def test_differences_are_means_over_pairs_of_a_storys_scenes() -> None:
    reading = perfect_reading([PLOT, PLOT])
    numbers = torch.zeros(6, 4)
    numbers[:3, 0] = torch.tensor([0.0, 0.3, 0.6])  # pairs 0.3, 0.6, 0.3 in the first of two stories
    numbers[3:, 0] = 0.9
    tallies = tally_unprompted([PLOT, PLOT], replace(reading, numbers=numbers))
    assert value(tallies["difference.tree_x"]) == pytest.approx(0.2)
    assert value(tallies["difference.sun_x"]) == 0.0
    assert value(tallies["difference.all"]) == pytest.approx(0.05)


def test_eyes_agree_pair_by_pair() -> None:
    reading = perfect_reading([PLOT])
    wrong = changed(reading, 1, eyes=1 - int(reading.classes["eyes"][1]))
    assert value(tally_unprompted([PLOT], wrong)[EYES_AGREEMENT]) == pytest.approx(1 / 3)


def test_unrelated_scenes_differ_by_chance() -> None:
    stories = sample_stories(300)
    numbers = torch.rand(900, 4, generator=torch.Generator().manual_seed(1))
    reading = replace(perfect_reading(stories), numbers=numbers)
    figure = figure_of(tally_unprompted(stories, reading)["difference.all"])
    assert figure.low < CHANCE_DIFFERENCE < figure.high


def moved_story() -> Story:
    """PLOT at place 0, at place 1 another time, and at place 0 again a third time."""
    first = replace(PLOT.backdrop, setting=0, time=0, tree_x=0.2, sun_x=0.3, horizon_y=0.5)
    second = replace(first, setting=1, time=1, tree_x=0.6, sun_x=0.5, horizon_y=0.6)
    third = replace(first, time=2, sun_x=0.7)
    scenes = zip(PLOT.scenes, (first, second, third), strict=True)
    return replace(PLOT, backdrop=first, scenes=tuple(replace(scene, backdrop=own) for scene, own in scenes))


def test_perfect_scenes_of_changing_stories_score_one_leak_nothing_and_agree() -> None:
    stories = sample_stories(30, changing=1.0)
    reading = perfect_reading(stories)
    tallies = tally_unprompted(stories, reading)
    assert {value(each) for each in tally_prompted(stories, reading).values()} == {1.0}
    assert {value(each) for each in tally_leakage(stories, reading).values()} == {0.0}
    assert max(value(tallies[key]) for key in DIFFERENCES.values()) == 0.0
    assert value(tallies[EYES_AGREEMENT]) == 1.0


@pytest.mark.parametrize(
    ("name", "seen", "leaks"),
    [("setting", 1, True), ("setting", 2, False), ("time", 1, True), ("time", 2, True)],
)
def test_another_scenes_setting_leaks(name: str, seen: int, leaks: bool) -> None:
    story = moved_story()
    wrong = changed(perfect_reading([story]), 0, **{name: seen})
    found = {key for key, each in tally_leakage([story], wrong).items() if each.amounts_S.sum()}
    assert found == ({"leakage", "leakage.setting"} if leaks else set())
    assert value(tally_prompted([story], wrong)[name]) == pytest.approx(2 / 3)


def test_scenes_are_compared_only_where_they_share_a_property() -> None:
    story = moved_story()
    counts = {name: tally.counts_S.tolist() for name, tally in _unprompted(story).items()}
    assert counts == {
        "difference.tree_x": [1.0],
        "difference.sun_x": [0.0],
        "difference.horizon_y": [1.0],
        "difference.actor_size": [3.0],
        "difference.all": [5.0],
        EYES_AGREEMENT: [3.0],
    }


def test_single_scenes_have_no_pairs() -> None:
    stories = [sample_story(seed=5, index=0, num_scenes=1)]
    with pytest.raises(ValueError, match="stories of one scene"):
        tally_unprompted(stories, perfect_reading(stories))


def test_a_reading_of_other_scenes_is_refused() -> None:
    with pytest.raises(ValueError, match="a reading of 6 scenes for 1 stories of 3"):
        tally_prompted([PLOT], perfect_reading([PLOT, PLOT]))


def test_stories_of_unequal_length_are_refused() -> None:
    stories = [PLOT, story_of((WALKS, None))]
    with pytest.raises(ValueError, match=r"stories of \[1, 3\] scenes"):
        tally_leakage(stories, perfect_reading(stories))


def test_clips_are_in_the_order_of_readings() -> None:
    clips = story_clips(sample_stories(2))
    assert [clip.scene for clip in clips[3:]] == list(sample_stories(2)[1].scenes)


def test_the_cast_is_told_apart_by_slot() -> None:
    story = replace(PLOT, cast=(Actor(shape=0, colour=0, hat=0), Actor(shape=1, colour=1, hat=1)))
    wrong = changed(perfect_reading([story]), 2, actor1_colour=1, actor2_colour=0)
    assert value(tally_prompted([story], wrong)["colour"]) == pytest.approx(1 / 2)


def _prompted(reading: Reading) -> dict[str, Tally]:
    return tally_prompted([PLOT], reading)


def _unprompted(story: Story) -> dict[str, Tally]:
    return tally_unprompted([story], perfect_reading([story]))


def _wrong_share(reading: Reading) -> dict[str, float]:
    return {name: 1 - value(each) for name, each in _prompted(reading).items() if value(each) != 1.0}


def _leaks(reading: Reading) -> list[str]:
    return sorted(name for name, each in tally_leakage([PLOT], reading).items() if each.amounts_S.sum())
