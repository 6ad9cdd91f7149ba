"""Chosen scenes are made anew among the others, which stay as they are to the bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError, OutputError, RecipeError, Remedy
from m2d.film.job import FilmJob
from m2d.film.load import load_film
from m2d.film.make import FilmResult
from m2d.recipe.fields import MAX_SEED
from m2d.recipe.overrides import Overrides
from m2d.tasks.reroll import Reroll, plan_reroll
from m2d.video.run_folder import read_run
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import PROMPTS, Studio, contents, frames_of, latents_of, open_studio

SCENES: tuple[Any, ...] = (
    PROMPTS[0],
    {"prompt": PROMPTS[1], "join": {"crossfade": 2}, "negative_prompt": "rain", "guidance_scale": 3.0},
    {"prompt": PROMPTS[2], "match_colour": True, "seed": 40, "frames": 9},
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def film(studio: Studio) -> FilmResult:
    """Three scenes that differ in everything, and two more of another run."""
    three = studio.generate(name="three", scenes=SCENES)
    more = {"overrides": {"num_inference_steps": 3}, "join": "continue"}
    return studio.extend(three.film, *PROMPTS[3:5], out=studio.path("film"), **more)


def planned(studio: Studio, film: Path, *scenes: int, **asked: Any) -> FilmJob:
    overrides = Overrides(out=studio.path("planned"), **asked.pop("overrides", {}))
    reroll = Reroll(film=film, scenes=scenes, **{"model": studio.source.name, **asked})
    return plan_reroll(reroll, overrides=overrides)


@pytest.mark.parametrize("chosen", [(0,), (1,), (2,), (4,), (1, 2), (0, 4), (2, 0)])
def test_the_other_scenes_keep_their_frames_to_the_bit(
    chosen: tuple[int, ...], studio: Studio, film: FilmResult
) -> None:
    before = contents(film.run_folder) | {"film": film.film.read_bytes()}
    told = RecordingReporter()
    result = studio.reroll(film.film, *chosen, out=studio.path("anew"), force=True, reporter=told)
    old, new = frames_of(film.provenance), frames_of(result.provenance)
    assert [index for index in range(5) if old[index] != new[index]] == sorted(chosen)
    assert result.made == tuple(sorted(chosen))
    # Nor do other scenes decode to anything else than they were.
    assert told.warnings == []
    for index in set(range(5)) - set(chosen):
        assert np.array_equal(latents_of(result.film)[index], latents_of(film.film)[index])
    shape = [(scene.join, scene.overlap, scene.num_frames) for scene in film.provenance.scenes]
    assert [(scene.join, scene.overlap, scene.num_frames) for scene in result.provenance.scenes] == shape
    assert len(read_film(result.film).frames_PHWC) == film.provenance.num_frames
    assert contents(film.run_folder) | {"film": film.film.read_bytes()} == before


def test_what_is_not_asked_for_stays_as_it_was(studio: Studio, film: FilmResult) -> None:
    result = studio.reroll(film.film, 1, 2, out=studio.path("kept"))
    for index, seed in ((1, 6), (2, 41)):
        old, new = film.provenance.scenes[index], result.provenance.scenes[index]
        assert (new.prompt, new.negative_prompt, new.guidance_scale) == (
            old.prompt,
            old.negative_prompt,
            old.guidance_scale,
        )
        assert new.seed == seed
        assert new.run == 2
    assert result.provenance.scenes[2].colour_map is not None
    assert result.provenance.last_run.kind == "reroll"


def test_a_new_prompt_and_seed_are_the_chosen_scenes_in_the_order_they_were_named(
    studio: Studio, film: FilmResult
) -> None:
    plan = planned(studio, film.film, 2, 1, prompts=("a sun", "a moon"), seed=9).plan
    assert [(plan.scenes[index].prompt, plan.scenes[index].seed) for index in (1, 2)] == [
        ("a moon", 9),
        ("a sun", 9),
    ]
    # The rest of the scene is its own, whoever wrote its prompt.
    assert (plan.scenes[1].negative_prompt, plan.scenes[1].guidance_scale) == ("rain", 3.0)
    assert (plan.scenes[2].num_frames, plan.scenes[2].match_colour) == (9, True)


def test_a_scene_keeps_its_own_setting_under_a_new_prompt(studio: Studio) -> None:
    scenes = (PROMPTS[0], {"setting": "a forest", "prompt": PROMPTS[1]})
    film = studio.generate(name="places", setting="a beach", scenes=scenes)
    assert [scene.prompt for scene in film.provenance.scenes] == [
        f"A beach. {PROMPTS[0]}",
        f"A forest. {PROMPTS[1]}",
    ]
    assert planned(studio, film.film, 1).plan.scenes[1].prompt == f"A forest. {PROMPTS[1]}"
    again = planned(studio, film.film, 1, 0, prompts=("a sun", "a moon")).plan
    assert [scene.prompt for scene in again.scenes] == ["A beach. a moon", "A forest. a sun"]


def test_a_scene_is_sampled_as_the_run_that_made_it_did(studio: Studio, film: FilmResult) -> None:
    assert planned(studio, film.film, 0).plan.sampling.num_inference_steps == 2
    assert planned(studio, film.film, 3).plan.sampling.num_inference_steps == 3
    asked = {"num_inference_steps": 7}
    assert planned(studio, film.film, 3, overrides=asked).plan.sampling.num_inference_steps == 7


def test_the_same_seed_prompt_and_context_give_the_same_scene(studio: Studio, film: FilmResult) -> None:
    first = studio.reroll(film.film, 4, seed=5, out=studio.path("same"))
    assert frames_of(first.provenance) == frames_of(film.provenance)


def test_scenes_far_apart_are_made_one_after_the_other_and_see_each_others_new_version(
    studio: Studio, film: FilmResult
) -> None:
    plan = planned(studio, film.film, 0, 4).plan
    assert [(part.window.scenes, part.window.targets) for part in plan.windows] == [
        ((0, 1, 2), (0,)),
        ((0, 3, 4), (4,)),
    ]
    near = planned(studio, film.film, 1, 3).plan
    assert [(part.window.scenes, part.window.targets) for part in near.windows] == [((1, 2, 3), (1, 3))]


def test_a_scene_that_continues_a_chosen_one_begins_with_that_ones_new_end(
    studio: Studio, film: FilmResult
) -> None:
    together = studio.reroll(film.film, 2, 3, seed=12, out=studio.path("together"))
    first = studio.reroll(film.film, 2, seed=12, out=studio.path("first"))
    second = studio.reroll(first.film, 3, seed=12, out=studio.path("second"))
    assert frames_of(together.provenance) == frames_of(second.provenance)
    kinds = [run.kind for run in together.provenance.runs]
    assert kinds == ["generate", "extend", "reroll", "reroll"]
    assert together.made == (2, 3)


def test_a_scene_left_behind_by_the_one_it_continues_is_named(studio: Studio, film: FilmResult) -> None:
    told = RecordingReporter()
    studio.reroll(film.film, 2, reporter=told, out=studio.path("told"))
    assert told.notes == ["scene 4 continues scene 3 as it was; re-roll it, too, to have it follow the new"]


def test_the_seed_after_the_last_one_is_the_first(studio: Studio) -> None:
    film = studio.generate(1, name="last-seed", sampling={"seed": MAX_SEED})
    assert planned(studio, film.film, 0).plan.scenes[0].seed == 0


def test_without_its_run_folder_a_scene_keeps_its_prompt_and_gets_another_seed(
    studio: Studio, film: FilmResult
) -> None:
    bare = Path(shutil.copy(film.film, studio.path("bare")))
    plan = planned(studio, bare, 1).plan
    assert (plan.scenes[1].prompt, plan.scenes[1].seed) == (PROMPTS[1], 6)
    assert (plan.scenes[1].negative_prompt, plan.scenes[1].guidance_scale) == ("rain", 3.0)
    result = studio.reroll(bare, 1)
    assert [scene.run for scene in result.provenance.scenes] == [2, 3, 2, 2, 2]
    # Frames that were blended already are not blended into others.
    shown_PHWC = read_film(bare).frames_PHWC
    again_PHWC = load_film(result.film, studio.source).scenes[2].frames_PHWC
    assert again_PHWC is not None
    assert np.array_equal(again_PHWC, shown_PHWC[8:17])
    # By now all but one scene is footage, which has no prompt of its own.
    with pytest.raises(InputError, match=r"^prompt: missing; scene 1 is external video"):
        planned(studio, result.film, 0)


def test_in_place_a_film_is_replaced_only_if_that_is_said(studio: Studio, film: FilmResult) -> None:
    path = Path(shutil.copy(film.film, studio.path("place")))
    shutil.copytree(film.run_folder, path.with_suffix(".m2d"))
    before = contents(studio.folder)
    with pytest.raises(
        OutputError, match=r"place\.mp4: exists already", check=lambda error: error.remedy is Remedy.OVERWRITE
    ):
        studio.reroll(path, 0, out=path)
    assert contents(studio.folder) == before
    result = studio.reroll(path, 0, out=path, force=True)
    assert read_run(path).provenance == result.provenance
    assert frames_of(result.provenance)[1:] == frames_of(film.provenance)[1:]


REFUSED: dict[str, tuple[tuple[int, ...], dict[str, Any], type[InputError], str]] = {
    "scene 0": ((-1,), {}, InputError, r"^scene: 0; .*film\.mp4 has scenes 1 to 5"),
    "a scene too many": ((1, 5), {}, InputError, r"^scene: 6; .*film\.mp4 has scenes 1 to 5"),
    "no scene": ((), {}, InputError, "^scene: none given"),
    "a scene twice": ((1, 1), {}, InputError, "^scene: 2, 2; name each scene once"),
    "too many prompts": ((1,), {"prompts": ("a", "b")}, InputError, "^prompt: 2 prompts for 1 scene;"),
    "too few prompts": ((1, 2), {"prompts": ("a",)}, InputError, "^prompt: 1 prompts for 2 scenes"),
    "an empty prompt": ((1,), {"prompts": (" ",)}, RecipeError, "line: prompt: is empty"),
    "a negative seed": ((1,), {"seed": -1}, RecipeError, "line: seed: must be at least 0, got -1"),
    "a seed too large": ((1,), {"seed": 2**63}, RecipeError, "line: seed: must be at most"),
    "nothing to resume": ((1,), {"resume": True}, InputError, "nothing to resume"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_touched(
    case: str, studio: Studio, film: FilmResult
) -> None:
    scenes, asked, error, told = REFUSED[case]
    before = contents(studio.folder)
    with pytest.raises(error, match=told) as raised:
        studio.reroll(film.film, *scenes, out=studio.path("never"), **asked)
    assert raised.value.exit_code == 2
    assert contents(studio.folder) == before
