"""A film that m2d did not make goes into the new film whole, and stays what it is however that goes on."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError, Interrupted, RecipeError
from m2d.files import nameless_file
from m2d.film.external import load_external_video
from m2d.film.make import FilmResult
from m2d.film.transcode import transcode_scenes
from m2d.progress import Clock, SilentReporter
from m2d.tasks import board
from m2d.tasks.inspect import inspect_film
from m2d.video import encode, packets
from m2d.video.open_film import FilmError
from m2d.video.read import probe
from m2d.video.run_folder import read_run
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, contents, copied, frames_of, open_studio

FPS = 24
COLOURS = ((200, 60, 40), (30, 90, 220), (40, 180, 70), (220, 200, 40))
ENDS_S = (0.5, 2.5, 4.0, 5.0)
"""Four scenes: one that is shorter than what a model is given, and three that are longer."""
CUTS = ENDS_S[:-1]
LENGTHS = [4, 16, 12, 8]


def film_travels(path: Path, *, ends_s: tuple[float, ...] = ENDS_S) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(round(ends_s[-1] * FPS)):
            scene = next(number for number, end_s in enumerate(ends_s) if index < end_s * FPS)
            frame_HWC = np.full((48, 64, 3), COLOURS[scene % len(COLOURS)], np.uint8)
            frame_HWC[10:20, index % 48 : index % 48 + 8] = 240
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def travels(studio: Studio) -> Path:
    """A film that m2d did not make, which no test changes."""
    return film_travels(studio.path("travels"))


@pytest.fixture(scope="module")
def longer(studio: Studio, travels: Path) -> FilmResult:
    """All of it, and a scene more."""
    return studio.extend(travels, "a dog", fit="model", cuts_s=CUTS, context_prompts=("green", "yellow"))


def shown_of(result: FilmResult) -> list[str | None]:
    return [scene.packets_sha256 for scene in result.provenance.scenes]


def test_every_scene_is_there_as_long_as_it_was_with_a_chapter_and_its_colours(
    longer: FilmResult,
) -> None:
    film = read_film(longer.film)
    assert [len(scene) for scene in film.scenes] == [*LENGTHS, 9]
    assert [chapter.title for chapter in film.chapters] == [
        "Scene 1",
        "Scene 2",
        "3. green",
        "4. yellow",
        "5. a dog",
    ]
    assert [chapter.start_s for chapter in film.chapters] == [0, *ENDS_S]
    for frames_PHWC, colour in zip(film.scenes, COLOURS, strict=False):
        assert np.abs(frames_PHWC[:, 25:].astype(int) - colour).mean() < 6
    assert longer.notes[-1] == (
        "the whole video is copied: 4 scenes, 40 frames, 5.0 s, less than 0.1 MB; --only-new leaves it out"
    )


def test_only_what_the_model_was_given_is_kept_beside_the_film(longer: FilmResult) -> None:
    one, two, three, four, new = longer.provenance.scenes
    assert [scene.clip_frames for scene in (one, two, three, four, new)] == [9, 9, 9, 9, None]
    assert [scene.clip_sha256 is None for scene in (one, two, three, four)] == [True, True, False, False]
    assert [each is None for each in read_run(longer.film).latents_FCHW] == [True, True, False, False, False]
    assert [scene.colour_jump is None for scene in longer.provenance.scenes] == [True] + [False] * 4
    assert longer.provenance.runs[0].parameters["spans"] == [[0.0, 0.5], [0.5, 2.5], [2.5, 4.0], [4.0, 5.0]]


def test_it_is_a_sound_film_for_inspect_and_board(longer: FilmResult) -> None:
    found = inspect_film(longer.film)
    assert (found.num_decoded_frames, found.pictures, found.run_folder.latents) == (
        49,
        "as written",
        "present",
    )
    page = board.draw_board(longer.film, reporter=SilentReporter(), force=True)
    assert page.films == (longer.film.name,)


def test_the_new_scene_is_the_same_without_it(studio: Studio, travels: Path, longer: FilmResult) -> None:
    alone = studio.extend(
        travels,
        "a dog",
        cuts_s=CUTS,
        context_prompts=("green", "yellow"),
        only_new=True,
        out=studio.path("alone"),
    )
    assert frames_of(alone.provenance) == frames_of(longer.provenance)[4:]
    assert alone.provenance.first_scene == 4
    assert not any("all of it" in note for note in alone.notes)


def test_it_goes_on_without_being_encoded_again(studio: Studio, longer: FilmResult) -> None:
    told = RecordingReporter()
    again = studio.extend(longer.film, "a cat", "a fish", reporter=told, out=studio.path("again"))
    assert told.notes == []
    assert shown_of(again)[:5] == shown_of(longer)
    assert frames_of(again.provenance)[:5] == frames_of(longer.provenance)
    assert (
        contents(again.run_folder)["frames.safetensors"] == contents(longer.run_folder)["frames.safetensors"]
    )


def test_any_of_its_scenes_is_made_anew_among_the_others(studio: Studio, longer: FilmResult) -> None:
    """Scenes 1 and 3 are the second's context: of the first there is only what the film shows."""
    rerolled = studio.reroll(longer.film, 1, prompts=("a green day",), out=studio.path("rerolled"))
    assert [shown_of(rerolled)[number] == shown_of(longer)[number] for number in range(5)] == [
        True,
        False,
        True,
        True,
        True,
    ]
    scenes = rerolled.provenance.scenes
    assert [scene.num_frames for scene in scenes] == [4, 9, 12, 8, 9]
    assert (scenes[0].latents_sha256, scenes[1].clip_frames) == (None, None)
    assert [
        scene.colour_jump == old.colour_jump
        for scene, old in zip(scenes, longer.provenance.scenes, strict=True)
    ] == [
        True,
        False,
        False,
        True,
        True,
    ]
    # A film of it, its run folder and all, goes on like any other.
    assert len(studio.extend(rerolled.film, "a cat").provenance.scenes) == 6


def test_a_crossfade_takes_the_last_frames_of_the_last_scene(
    studio: Studio, travels: Path, longer: FilmResult
) -> None:
    faded = studio.extend(
        travels, "a dog", fit="model", cuts_s=CUTS, join={"crossfade": 4}, out=studio.path("faded")
    )
    film = read_film(faded.film)
    assert len(film.frames_PHWC) == 45
    whole = read_film(longer.film).frames_PHWC
    assert np.array_equal(film.frames_PHWC[:36], whole[:36])


def test_a_crossfade_needs_room_in_the_scene_as_the_film_shows_it(studio: Studio, travels: Path) -> None:
    """The model is given nine frames; the film shows four of the last scene."""
    with pytest.raises(RecipeError, match=r"join: a crossfade of 4 frames, .* room for 3"):
        studio.extend(
            travels,
            "a dog",
            fit="model",
            cuts_s=(0.5, 2.5, 4.4583),
            join={"crossfade": 4},
            out=studio.path("never"),
        )


def test_lost_latents_change_nothing_of_what_it_shows(studio: Studio, longer: FilmResult) -> None:
    film = Path(shutil.copy(longer.film, studio.path("bare")))
    told = RecordingReporter()
    again = studio.extend(film, "a cat", reporter=told)
    assert any("using the film's frames" in note for note in told.notes)
    assert shown_of(again)[:5] == shown_of(longer)
    assert [scene.num_frames for scene in again.provenance.scenes] == [*LENGTHS, 9, 9]
    assert len(studio.reroll(again.film, 0, prompts=("a day",)).provenance.scenes) == 6


def test_lost_clips_come_from_the_film(studio: Studio, longer: FilmResult) -> None:
    film = copied(longer.film, studio.path("lost"))
    (film.with_suffix(".m2d") / "frames.safetensors").unlink()
    told = RecordingReporter()
    again = studio.extend(film, "a cat", reporter=told)
    assert told.notes == [
        f"the frames of scene 3, 4 are not in {film.with_suffix('.m2d')}: taken from the film"
    ]
    assert shown_of(again)[:5] == shown_of(longer)


@pytest.mark.parametrize("preview", [False, True])
def test_another_encoder_encodes_all_of_it_anew(
    preview: bool, studio: Studio, longer: FilmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = copied(longer.film, studio.path(f"foreign {preview}"))
    monkeypatch.setattr(encode, "CRF", 14)
    monkeypatch.setattr(encode, "_EXACT", (*encode._EXACT, "-metadata", "x=y"))
    told = RecordingReporter()
    again = studio.reroll(film, 1, prompts=("a sea",), reporter=told, draft=preview)
    assert told.notes[0].startswith("all scenes are encoded again")
    assert [scene.num_frames for scene in again.provenance.scenes] == [4, 9, 12, 8, 9]
    old, new = read_film(film).scenes[0], read_film(again.film).scenes[0]
    assert np.abs(old.astype(int) - new).mean() < 2


def test_a_draft_shows_what_is_at_hand(studio: Studio, travels: Path) -> None:
    told = RecordingReporter()
    result = studio.extend(
        travels, "a dog", fit="model", cuts_s=CUTS, draft=True, reporter=told, out=studio.path("drafted")
    )
    draft = result.run_folder / "draft.png"
    assert told.notes[-1] == f"draft: {draft}"
    assert draft.read_bytes()[:4] == b"\x89PNG"


def test_a_stop_while_it_is_taken_over_is_resumed(studio: Studio, travels: Path, longer: FilmResult) -> None:
    asked: dict[str, Any] = {"out": studio.path("stopped")}
    given = {"cuts_s": CUTS, "context_prompts": ("green", "yellow")}
    with pytest.raises(Interrupted, match="SIGTERM: finished work is kept"):
        studio.extend(
            travels,
            "a dog",
            fit="model",
            reporter=Stopping(stage_to_stop="take over", after=13),
            **asked,
            **given,
        )
    result = studio.extend(travels, resume=True, **asked)
    assert result.film.read_bytes() == longer.film.read_bytes()


def test_another_film_under_its_name_is_not_resumed(studio: Studio) -> None:
    film = film_travels(studio.path("replaced"))
    asked: dict[str, Any] = {"out": studio.path("resumed"), "cuts_s": CUTS}
    with pytest.raises(InterruptedError):
        studio.extend(
            film,
            "a dog",
            fit="model",
            reporter=Stopping(stage_to_stop="decode", raises=InterruptedError),
            **asked,
        )
    film_travels(film, ends_s=(0.5, 2.5, 4.0, 5.0, 5.5))
    with pytest.raises(InputError, match="file_sha256 was "):
        studio.extend(film, resume=True, out=asked["out"], cuts_s=CUTS)


def test_a_film_that_changes_while_it_is_taken_over_is_refused(studio: Studio, tmp_path: Path) -> None:
    path = film_travels(tmp_path / "travels.mp4")
    film = load_external_video(path, studio.source, cuts_s=CUTS, prompts=())
    film_travels(path, ends_s=(0.5, 1.0))
    with nameless_file(tmp_path) as scratch, pytest.raises(FilmError, match="changed while it was read"):
        transcode_scenes(film, scratch, output=tmp_path / "new.mp4", clock=Clock(SilentReporter()))


def test_prompts_of_all_scenes_are_taken_and_more_are_refused(studio: Studio, travels: Path) -> None:
    film = load_external_video(travels, studio.source, cuts_s=CUTS, prompts=("a", "b", "c", "d"))
    assert [scene.plan.prompt for scene in film.scenes] == ["a", "b", "c", "d"]
    with pytest.raises(InputError, match="5 prompts for 4 scenes"):
        load_external_video(travels, studio.source, cuts_s=CUTS, prompts=("a",) * 5)


def test_a_large_film_is_written_from_disk(
    studio: Studio, longer: FilmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = studio.extend(longer.film, "a cat", out=studio.path("held"))
    monkeypatch.setattr(packets, "LARGEST_HELD_BYTES", 0)
    film = copied(longer.film, studio.path("large"))
    in_place = studio.extend(film, "a cat", out=film, force=True)
    assert probe(in_place.film).num_frames == 58
    assert in_place.film.read_bytes() == held.film.read_bytes()


def peak_bytes(studio: Studio, folder: Path, *, seconds: int) -> int:
    """The most memory that taking over a film of one scene needs."""
    path = film_travels(folder / f"{seconds}.mp4", ends_s=(float(seconds),))
    film = load_external_video(path, studio.source, cuts_s=(), prompts=())
    with nameless_file(folder) as scratch:
        tracemalloc.start()
        taken = transcode_scenes(film, scratch, output=folder / "new.mp4", clock=Clock(SilentReporter()))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert taken.scenes[0].encoded is not None
    assert len(taken.scenes[0].encoded) == 8 * seconds
    return peak


@pytest.mark.long
def test_no_more_is_held_of_a_film_five_times_as_long(studio: Studio, tmp_path: Path) -> None:
    short, long = (peak_bytes(studio, tmp_path, seconds=seconds) for seconds in (80, 400))
    # A packet's place in the file takes 17 bytes, twice while there are slices; a frame 3072.
    assert long - short < 60 * 8 * 320
