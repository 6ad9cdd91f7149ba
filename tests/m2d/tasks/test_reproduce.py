"""A film is made again from what it says of itself, frame by frame; it is checked before any work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError, RecipeError
from m2d.film.make import FilmResult
from m2d.video.provenance import ProvenanceError, parse_provenance, seal_provenance
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import (
    PROMPTS,
    Stopping,
    Studio,
    contents,
    frames_of,
    open_studio,
    retagged,
    rewritten,
    write_plain,
)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def grown(studio: Studio) -> FilmResult:
    """Generated, extended, re-rolled twice: runs of different steps, dtypes and lengths."""
    scenes = [PROMPTS[0], {"prompt": PROMPTS[1], "join": {"crossfade": 2}, "match_colour": True}]
    film = studio.generate(name="film", scenes=scenes).film
    more: dict[str, Any] = {"frames": 9, "join": "continue", "out": studio.path("two")}
    overrides = {"dtype": "bfloat16", "num_inference_steps": 3}
    film = studio.extend(film, *PROMPTS[2:4], overrides=overrides, **more).film
    film = studio.reroll(film, 0, 3, prompts=("a moon", "a sun"), out=studio.path("three")).film
    return studio.reroll(film, 1, 2, out=studio.path("grown"))


def test_a_film_of_many_runs_is_made_again_frame_by_frame(studio: Studio, grown: FilmResult) -> None:
    before = contents(studio.folder)
    told = RecordingReporter()
    again = studio.reproduce(grown.film, reporter=told)
    assert again.differing == ()
    assert again.result.film.name == "grown-again.mp4"
    assert frames_of(again.result.provenance) == frames_of(grown.provenance)
    assert again.result.provenance.frames_sha256 == grown.frames_sha256
    assert [run.kind for run in again.result.provenance.runs] == [run.kind for run in grown.provenance.runs]
    assert (told.notes, told.warnings) == ([], [])
    assert {name: contents(studio.folder)[name] for name in before} == before
    # What it says is true, and so it can be made again, too.
    assert read_film(again.result.film).provenance == again.result.provenance


def test_a_film_alone_is_enough(studio: Studio, grown: FilmResult) -> None:
    alone = Path(shutil.copy(grown.film, studio.path("alone")))
    assert studio.reproduce(alone).differing == ()


def test_scenes_that_come_out_otherwise_are_named(studio: Studio, grown: FilmResult) -> None:
    # Only the second run's scenes, of which the re-rolls left one, take the story's seed.
    again = studio.reproduce(grown.film, out=studio.path("other"), overrides={"num_inference_steps": 4})
    assert again.differing == (0, 1, 2, 3)


def test_an_interrupted_reproduction_is_resumed(studio: Studio, grown: FilmResult) -> None:
    given: dict[str, Any] = {"out": studio.path("resumed")}
    reporter = Stopping(stage_to_stop="denoise", after=7, raises=InterruptedError)
    with pytest.raises(InterruptedError):
        studio.reproduce(grown.film, reporter=reporter, **given)
    told = Stopping()
    assert studio.reproduce(grown.film, resume=True, reporter=told, **given).differing == ()
    assert told.notes == ["resuming the unfinished run: window 3 of 7, 0 of 3 steps"]


LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a run too few": (
        lambda it: it["runs"].pop(),
        r"lie\.mp4: scenes\[2\] .* is of run 4",
    ),
    "the wrong run": (
        lambda it: it["scenes"][3].update(run=0),
        "make 4 scenes, which are not the 4 of the film",
    ),
    "another order": (
        lambda it: it["runs"][0].update(kind="extend"),
        "a run of kind extend is out of place",
    ),
    "two beginnings": (lambda it: it["runs"][1].update(kind="generate"), "kind generate is out of place"),
    "a scene too many": (
        lambda it: it["runs"][1]["recipe"]["scenes"].append({"prompt": "a"}),
        "make 5 scenes, which are not the 4 of the film",
    ),
    "a re-roll of others": (
        lambda it: it["runs"][2].update(windows=[]),
        "a re-roll of 0 scenes has a recipe of 2",
    ),
    "no recipe": (
        lambda it: it["runs"][0].update(recipe={}),
        "recipe stored in the film is not valid: title: Field required",
    ),
    "a path as output": (
        lambda it: it["runs"][0]["recipe"].update(output="../../up.mp4"),
        "recipe stored in the film is not valid: output",
    ),
    "a prompt with controls": (
        lambda it: it["runs"][0]["recipe"]["scenes"][0].update(prompt="a\x1b[2J"),
        r"is not valid: scenes\.0\.prompt: Value error, holds the forbidden character U\+001B",
    ),
    "frames the model cannot make": (
        lambda it: it["runs"][0]["recipe"]["video"].update(num_frames=6),
        r"lie\.mp4: video\.num_frames: 6 is not 4k\+1",
    ),
    "a story's end alone": (lambda it: it.update(first_scene=2), "begins with scene 3 of its story"),
    "frames of a film": (
        lambda it: it["runs"][1].update(kind="footage", windows=[], model=None),
        "starts from frames of another video, which provenance does not contain",
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_a_film_that_lies_about_its_runs_is_refused_before_any_work(
    case: str, studio: Studio, grown: FilmResult
) -> None:
    change, told = LIES[case]
    film = rewritten(grown.film, studio.path("lie"), change)
    before = contents(studio.folder)
    reporter = Stopping()
    with pytest.raises(InputError, match=told) as raised:
        studio.reproduce(film, reporter=reporter)
    assert raised.value.exit_code == 2
    assert reporter.done == {}
    assert contents(studio.folder) == before


def test_provenance_that_lies_about_its_frames_is_refused(studio: Studio, grown: FilmResult) -> None:
    def lengthen(document: dict[str, Any]) -> None:
        document["scenes"][-1]["num_frames"] += 4

    with pytest.raises(ProvenanceError, match=r"long\.mp4: .* describes \d+ frames of 16x16, the film has"):
        studio.reproduce(rewritten(grown.film, studio.path("long"), lengthen))


def test_damaged_provenance_is_refused(studio: Studio, grown: FilmResult) -> None:
    text = seal_provenance(grown.provenance)
    parse_provenance(text)
    film = Path(shutil.copy(grown.film, studio.path("damaged")))
    for spoilt, told in (
        (text.replace("a moon", "a mood"), r"damaged\.mp4: .* is corrupt: its sha256"),
        (text[:-20], "is not JSON"),
        (text.replace('"m2d_provenance":3', '"m2d_provenance":2'), "provenance of version 2"),
    ):
        with pytest.raises(ProvenanceError, match=told):
            studio.reproduce(retagged(film, spoilt))


def test_a_film_of_somebody_else_cannot_be_made_again(studio: Studio, grown: FilmResult) -> None:
    film = write_plain(studio.path("theirs"), read_film(grown.film).frames_PHWC)
    with pytest.raises(InputError, match=r"theirs\.mp4: was not made by m2d and has no provenance"):
        studio.reproduce(film)


def test_other_weights_are_told_and_tried(studio: Studio, grown: FilmResult) -> None:
    folder = Path(shutil.copytree(studio.source.path, studio.folder.parent / "other"))
    config = folder / "vae" / "config.json"
    config.write_text(config.read_text() + "\n")
    told = RecordingReporter()
    # By their digest alone they are others.
    again = studio.reproduce(grown.film, model=str(folder), out=studio.path("weights"), reporter=told)
    assert again.differing == ()
    assert len(told.warnings) == 1
    assert told.warnings[0].startswith("the film was made with other weights than those of ")


def test_runs_of_several_devices_need_one_to_be_chosen(studio: Studio, grown: FilmResult) -> None:
    def move(document: dict[str, Any]) -> None:
        document["runs"][1]["recipe"]["backend"]["device"] = "cuda:1"

    film = rewritten(grown.film, studio.path("moved"), move)
    with pytest.raises(
        InputError, match=r"^device: missing; the runs of .* were made with cpu and cuda:1; choose one"
    ):
        studio.reproduce(film)
    assert studio.reproduce(film, overrides={"device": "cpu"}).differing == ()


def test_a_value_no_recipe_may_have_is_refused(studio: Studio, grown: FilmResult) -> None:
    with pytest.raises(RecipeError, match=r"sampling\.num_inference_steps: must be at least 1"):
        studio.reproduce(grown.film, out=studio.path("never"), overrides={"num_inference_steps": 0})
