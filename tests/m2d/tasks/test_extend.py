"""A film grows: what is appended is what a longer story would have had, and what was there stays."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError, OutputError, RecipeError, Remedy, UnknownBackend
from m2d.families.source import ModelSource, resolve_model
from m2d.film.inherit import inherited_recipe, plan_on
from m2d.film.load import ModelMismatch, load_film
from m2d.film.make import FilmResult
from m2d.progress import SilentReporter
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import ExistingFilm, RunPlan
from m2d.recipe.settings import parse_settings
from m2d.tasks.extend import Extension, plan_extension
from m2d.video.digests import array_digest
from m2d.video.provenance import Provenance
from m2d.video.run_folder import read_run, run_folder_of
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import PROMPTS, Studio, contents, frames_of, latents_of, open_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def three(studio: Studio) -> Path:
    """A film of three scenes, which no test changes."""
    return studio.generate(3, name="three").film


@pytest.fixture(scope="module")
def five(studio: Studio, three: Path) -> FilmResult:
    """Three scenes, and two more."""
    return studio.extend(three, *PROMPTS[3:5], out=studio.path("five"))


def provenance_of(film: Path) -> Provenance:
    provenance = read_film(film).provenance
    assert provenance is not None
    return provenance


def test_a_story_of_five_is_a_story_of_three_extended_by_two(studio: Studio, five: FilmResult) -> None:
    before = contents(studio.folder)
    whole = studio.generate(5, name="whole")
    assert frames_of(five.provenance) == frames_of(whole.provenance)
    for extended, made in zip(latents_of(five.film), latents_of(whole.film), strict=True):
        assert np.array_equal(extended, made)
    assert five.frames_sha256 == whole.frames_sha256
    assert {name: contents(studio.folder)[name] for name in before} == before


def test_scenes_appended_one_by_one_are_those_appended_at_once(
    studio: Studio, three: Path, five: FilmResult
) -> None:
    film = shutil.copy(three, studio.path("grown"))
    shutil.copytree(run_folder_of(three), run_folder_of(studio.path("grown")))
    for prompt in PROMPTS[3:5]:
        result = studio.extend(film, prompt, out=film, force=True)
    assert frames_of(result.provenance) == frames_of(five.provenance)
    assert [scene.run for scene in result.provenance.scenes] == [0, 0, 0, 1, 2]


def test_the_film_tells_its_lineage_and_what_is_in_it(three: Path, five: FilmResult) -> None:
    film = read_film(five.film)
    provenance = provenance_of(five.film)
    assert film.frames_PHWC.shape == (25, 16, 16, 3)
    assert [chapter.title for chapter in film.chapters] == [
        f"{number}. {prompt}" for number, prompt in enumerate(PROMPTS[:5], start=1)
    ]
    assert [run.kind for run in provenance.runs] == ["generate", "extend"]
    assert [(window.scenes, window.targets) for window in provenance.last_run.windows] == [
        ((0, 2, 3), (3,)),
        ((0, 3, 4), (4,)),
    ]
    assert provenance.parents == (provenance_of(three).digest(),)
    assert frames_of(provenance)[:3] == frames_of(provenance_of(three))
    assert five.made == (3, 4)
    assert read_run(five.film).provenance == provenance


def test_without_its_run_folder_a_film_goes_on_from_its_frames_and_says_so(
    studio: Studio, three: Path, five: FilmResult
) -> None:
    bare = Path(shutil.copy(three, studio.path("bare")))
    told = RecordingReporter()
    result = studio.extend(bare, PROMPTS[3], reporter=told)
    assert len(told.notes) == 1
    assert told.notes[0].startswith("using the film's frames instead of its latents: ")
    assert result.notes == tuple(told.notes)
    assert [run.kind for run in result.provenance.runs] == ["generate", "footage", "extend"]
    assert [scene.run for scene in result.provenance.scenes] == [1, 1, 1, 2]
    assert [scene.seed for scene in result.provenance.scenes] == [None, None, None, 5]
    # What is shown of the old scenes is what was seen, and the new one has another start.
    shown = [array_digest(part) for part in np.split(read_film(bare).frames_PHWC, 3)]
    assert frames_of(result.provenance)[:3] == shown
    assert frames_of(result.provenance)[3] != frames_of(five.provenance)[3]


def test_a_run_folder_of_another_film_is_not_believed(studio: Studio, three: Path, five: Any) -> None:
    film = Path(shutil.copy(three, studio.path("mixed")))
    shutil.copytree(five.run_folder, run_folder_of(film))
    told = RecordingReporter()
    studio.extend(film, PROMPTS[3], reporter=told)
    assert any("mixed.m2d: belongs to another run than the film" in note for note in told.notes)


@pytest.fixture(scope="module")
def foreign(studio: Studio) -> ModelSource:
    """A model that computes the same and, by its digest, is another one."""
    folder = Path(shutil.copytree(studio.source.path, studio.folder.parent / "foreign"))
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    return resolve_model(str(folder))


def test_latents_of_another_model_are_refused(studio: Studio, three: Path, foreign: ModelSource) -> None:
    before = contents(studio.folder)
    told = r"latents in .* are those of tiny with other weights than .*foreign"
    with pytest.raises(ModelMismatch, match=told, check=lambda error: error.remedy is Remedy.GIVE_MODEL):
        studio.extend(three, "a fish", model=foreign.name)
    assert contents(studio.folder) == before


def test_a_film_that_another_model_took_over_from_its_frames_is_that_models_from_then_on(
    studio: Studio, three: Path, foreign: ModelSource
) -> None:
    bare = Path(shutil.copy(three, studio.path("taken-over")))
    taken = studio.extend(bare, "a fish", model=foreign.name)
    told = RecordingReporter()
    again = studio.extend(taken.film, "a bird", model=foreign.name, reporter=told)
    assert told.notes == []
    assert frames_of(again.provenance)[:4] == frames_of(taken.provenance)


def test_only_new_scenes_are_a_film_of_their_own_that_can_go_on(
    studio: Studio, three: Path, five: FilmResult
) -> None:
    new = studio.extend(three, *PROMPTS[3:5], only_new=True, out=studio.path("new"), join={"crossfade": 2})
    film = read_film(new.film)
    provenance = provenance_of(new.film)
    # The first of them follows nothing any more.
    assert [(scene.join, scene.overlap) for scene in provenance.scenes] == [("cut", 0), ("crossfade", 2)]
    assert len(film.frames_PHWC) == 8
    assert [chapter.title for chapter in film.chapters] == [f"1. {PROMPTS[3]}", f"2. {PROMPTS[4]}"]
    assert (provenance.first_scene, new.made) == (3, (0, 1))
    assert frames_of(provenance) == frames_of(five.provenance)[3:]
    recent = {"overrides": {"settings": tuple(parse_settings(["context=recent"]))}}
    further = studio.extend(new.film, "a fish", **recent)
    # It sees what it would see in the whole film without the first scene, and its noise has the same name.
    whole = studio.extend(five.film, "a fish", out=studio.path("six"), **recent)
    assert frames_of(further.provenance)[2] == frames_of(whole.provenance)[5]
    assert further.provenance.first_scene == 3
    assert further.provenance.last_run.windows[0].targets == (5,)
    assert frames_of(further.provenance)[:2] == frames_of(provenance)
    rerolled = studio.reroll(new.film, 0)
    assert rerolled.made == (0,)
    assert rerolled.provenance.last_run.windows[0].targets == (3,)
    assert frames_of(rerolled.provenance)[1] == frames_of(provenance)[1]


def test_sizes_and_sampling_are_those_of_the_last_scene_unless_told_otherwise(
    studio: Studio, three: Path
) -> None:
    asked = {"overrides": {"num_inference_steps": None}, "out": studio.path("like")}
    planned = plan_of(studio, three, **asked)
    assert planned.sampling.num_inference_steps == 2
    assert [scene.guidance_scale for scene in planned.scenes] == [2.0] * 4
    assert [scene.num_frames for scene in planned.scenes] == [5] * 4
    longer = plan_of(studio, three, frames=9, overrides={"seed": 77, "num_inference_steps": 3})
    assert longer.sampling.num_inference_steps == 3
    assert (longer.scenes[3].num_frames, longer.scenes[3].seed) == (9, 77)
    assert [scene.seed for scene in longer.scenes[:3]] == [5] * 3


def plan_of(studio: Studio, film: Path, **asked: Any) -> RunPlan:
    overrides = Overrides(out=studio.path("planned"), **asked.pop("overrides", {}))
    asked.pop("out", None)
    extension = Extension(film=film, prompts=("a fish",), model=studio.source.name, **asked)
    return plan_extension(extension, overrides=overrides, reporter=SilentReporter()).plan


def test_somebody_new_joins_the_cast_by_being_described(studio: Studio) -> None:
    cast = {"Actor1": "round red body"}
    film = studio.generate(1, name="cast", scenes=["Actor1 waves."], cast=cast).film
    grown = studio.extend(film, "Actor1 and Actor2 (tall blue body) jump.", "Actor2 waves.")
    assert [scene.prompt for scene in grown.provenance.scenes] == [
        "Actor1 (round red body) waves.",
        "Actor1 (round red body) and Actor2 (tall blue body) jump.",
        "Actor2 (tall blue body) waves.",
    ]
    assert grown.provenance.last_run.recipe["cast"] == {**cast, "Actor2": "tall blue body"}


REFUSED = {
    "nothing asked for": ({"prompts": ()}, InputError, "^prompt: missing; give one for each new scene"),
    "an empty prompt": ({"prompts": ("a fish", " ")}, RecipeError, r"scenes\[1\]\.prompt: is empty"),
    "a control character": ({"prompts": ("a\x1b[31m",)}, RecipeError, r"line: prompt: .* U\+001B; remove it"),
    "a prompt too long": ({"prompts": ("fish " * 50,)}, RecipeError, "line: prompt: 51 tokens .* at most 40"),
    "an unknown actor": ({"prompts": ("Actor7 waves",)}, InputError, r"^prompt: Actor7 .* Actor7 \(tall"),
    "frames not 4k+1": ({"frames": 10}, RecipeError, r"line: frames: 10 is not 4k\+1; use 9 or 13"),
    "no frames": ({"frames": 0}, RecipeError, "line: frames: must be at least 1, got 0"),
    "a crossfade of nothing": ({"join": {"crossfade": 0}}, RecipeError, "line: join: .* from 1, got 0"),
    "a crossfade of all": ({"join": {"crossfade": 5}}, RecipeError, "crossfade of 5 frames, .* room for 4"),
    "cuts of a film that knows its own": (
        {"cuts_s": (1.0,)},
        InputError,
        "knows its scenes and prompts; leave",
    ),
    "prompts of one that does": (
        {"context_prompts": ("a",)},
        InputError,
        "knows its scenes and prompts; leave",
    ),
    "a model that is nowhere": ({"model": "nowhere"}, InputError, "'nowhere': there is no such folder"),
    "no model": ({"model": None}, InputError, "^model: missing; the film was made by the model tiny"),
    "an unknown device": (
        {"overrides": {"device": "tpu"}},
        RecipeError,
        r"backend\.device: 'tpu' is not known",
    ),
    "no steps": (
        {"overrides": {"num_inference_steps": 0}},
        RecipeError,
        r"sampling\.num_inference_steps: must be at least 1, got 0",
    ),
    "its own name": ({"out": "three.mp4"}, OutputError, r"three\.mp4: exists already"),
    "a folder that is missing": ({"out": "no/a.mp4"}, OutputError, "folder .*no does not exist"),
    "no film's name": ({"out": "a.gif"}, InputError, r"^out: '.*a\.gif' does not end in \.mp4"),
    "nothing to resume": ({"resume": True}, InputError, "nothing to resume: no unfinished run is there"),
    "nothing to recall": ({"resume": True, "prompts": ()}, InputError, "nothing to resume: .* give --prompt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_touched(case: str, studio: Studio, three: Path) -> None:
    asked, error, told = REFUSED[case]
    given = {"prompts": ("a fish",), "out": "never.mp4", **asked}
    before = contents(studio.folder)
    with pytest.raises(error, match=told) as raised:
        studio.extend(three, *given.pop("prompts"), **{**given, "out": studio.folder / str(given["out"])})
    assert raised.value.exit_code == 2
    assert "\n" not in str(raised.value)
    assert contents(studio.folder) == before


@pytest.mark.parametrize("film", [".", "/", ".."])
def test_a_folder_is_no_film(film: str, studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(studio.folder)
    with pytest.raises(InputError, match="is a folder; give a video file"):
        studio.extend(Path(film), "a fish")


def test_a_backend_that_is_not_there_is_told_before_anything_is_made(studio: Studio, three: Path) -> None:
    before = contents(studio.folder)
    with pytest.raises(UnknownBackend, match="got 'magic', installed"):
        studio.extend(three, "a fish", out=studio.path("never"), overrides={"backend": "magic"})
    assert contents(studio.folder) == before


def test_only_what_the_new_scenes_are_to_be_warned_of_is_said(studio: Studio, three: Path) -> None:
    picky = replace(studio, source=replace(studio.source, is_puppet=True))
    film = load_film(three, picky.source)
    recipe = inherited_recipe(
        film, picky.source, scenes=[{"prompt": "red"}, {"prompt": "red xyzzy"}], like=[2]
    )
    plan = plan_on(
        recipe, picky.source, ExistingFilm(scenes=film.plans), overrides=Overrides(out=studio.path("never"))
    )
    assert all(warning.startswith("command line: scenes[") for warning in plan.warnings)
    (warning,) = (warning for warning in plan.warnings if "xyzzy" in warning)
    assert warning.startswith("command line: scenes[1].prompt: ")
