"""A film to go on from: where its scenes come from, and what is not believed of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import InputError
from m2d.film.journal_folder import journal_folder_of
from m2d.film.load import load_film
from m2d.film.make import FilmResult
from m2d.video.digests import array_digest
from m2d.video.provenance import ProvenanceError
from m2d.video.run_folder import read_run, run_folder_of
from tests.m2d.tasks.studio import (
    PROMPTS,
    Studio,
    contents,
    copied,
    latents_of,
    open_studio,
    rewritten,
    write_plain,
)
from tests.m2d.video.grown_films import write_run


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def made(studio: Studio) -> FilmResult:
    scenes = [PROMPTS[0], {"prompt": PROMPTS[1], "join": {"crossfade": 2}, "match_colour": True}]
    return studio.generate(name="made", scenes=scenes, video={"upscale": 2})


def not_enlarged(document: dict[str, Any]) -> None:
    """Make the record that of a film without upscaling, as `rewritten` writes it."""
    claims = [
        *(run["recipe"]["video"] for run in document["runs"]),
        *(run["parameters"] for run in document["runs"]),
    ]
    for part in (document["video"], *claims):
        part["upscale"] = 1


def test_scenes_come_from_the_run_folder_as_they_were_stored(studio: Studio, made: FilmResult) -> None:
    film = load_film(made.film, studio.source)
    for scene, latents_FCHW, record in zip(
        film.scenes, latents_of(made.film), made.provenance.scenes, strict=True
    ):
        assert scene.latents_FCHW is not None
        assert np.array_equal(scene.latents_FCHW, latents_FCHW)
        assert (scene.frames_PHWC, scene.frames_sha256) == (None, record.frames_sha256)
        assert (scene.run, scene.generating_run, scene.record) == (0, 0, record)
    assert film.scenes[1].colour_map_LC is not None
    assert (film.fps, film.upscale, film.notes) == (8, 2, ())
    assert film.digest == made.provenance.digest()


def test_without_it_scenes_come_from_the_film_at_the_size_that_was_made(
    studio: Studio, made: FilmResult
) -> None:
    bare = Path(shutil.copy(made.film, studio.path("bare")))
    film = load_film(bare, studio.source)
    shown_PHWC = read_film(bare).frames_PHWC
    assert shown_PHWC.shape == (8, 16, 16, 3)
    for scene, first in zip(film.scenes, (0, 3), strict=True):
        assert scene.latents_FCHW is None
        assert scene.frames_PHWC is not None
        assert np.array_equal(scene.frames_PHWC, shown_PHWC[first : first + 5])
        assert (scene.plan.seed, scene.colour_map_LC, scene.frames_sha256) == (None, None, None)
        assert (scene.run, scene.generating_run) == (1, 0)
    assert film.runs[1].kind == "footage"
    assert film.runs[1].parameters == {"film": "the film's own frames", "parent": film.digest}


@pytest.mark.parametrize("spoilt", ["run.json", "latents.safetensors"])
@pytest.mark.parametrize("change", ["cut off", "gone", "changed", "a folder", "unreadable"])
def test_a_damaged_run_folder_is_said_and_not_used(
    spoilt: str,
    change: str,
    studio: Studio,
    made: FilmResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    film = copied(made.film, studio.path(f"{spoilt} {change}"))
    path = run_folder_of(film) / spoilt
    data = path.read_bytes()
    if change == "gone":
        path.unlink()
    elif change == "a folder":
        path.unlink()
        path.mkdir()
    elif change == "unreadable":
        monkeypatch.setattr(os, "open", refuse_for(path))
    else:
        middle = len(data) // 2
        changed = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        path.write_bytes(data[:-9] if change == "cut off" else changed)
    loaded = load_film(film, studio.source)
    assert len(loaded.notes) == 1
    assert spoilt in loaded.notes[0]
    assert loaded.scenes[0].frames_PHWC is not None


def refuse_for(path: Path) -> Callable[..., Any]:
    """Open all files but one, as for a user who may not read it."""
    real = os.open

    def open_file(given: Any, *arguments: Any, **named: Any) -> int:
        if Path(given) == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(given, *arguments, **named)

    return open_file


def lying_film(studio: Studio, made: FilmResult, latents: list[np.ndarray]) -> Path:
    """The film with a run folder of other latents, all digests of which are right."""
    film = studio.path("lying")

    def tell(document: dict[str, Any]) -> None:
        not_enlarged(document)
        for scene, latents_FCHW in zip(document["scenes"], latents, strict=True):
            scene["latents_sha256"] = None if latents_FCHW is None else array_digest(latents_FCHW)

    rewritten(made.film, film, tell)
    provenance = read_film(film).provenance
    assert provenance is not None
    write_run(film, provenance=provenance, latents_FCHW=latents, timings_s={})
    return film


@pytest.mark.parametrize(
    "lie",
    [
        lambda latents_FCHW: latents_FCHW[:1],
        lambda latents_FCHW: latents_FCHW[:, :3],
        lambda latents_FCHW: np.concatenate([latents_FCHW, latents_FCHW], axis=2),
        lambda latents_FCHW: np.full_like(latents_FCHW, np.nan),
        lambda latents_FCHW: np.full_like(latents_FCHW, np.inf),
    ],
)
def test_latents_that_the_model_cannot_take_are_refused(lie: Any, studio: Studio, made: FilmResult) -> None:
    film = lying_film(studio, made, [lie(latents_FCHW) for latents_FCHW in latents_of(made.film)])
    before = contents(studio.folder)
    with pytest.raises(
        InputError, match=r"scene 1 has latents of shape .*; finite numbers of shape .* are needed"
    ):
        studio.extend(film, "a fish")
    assert contents(studio.folder) == before


@pytest.mark.parametrize("scene", [0, 1])
def test_scenes_of_a_crossfade_without_latents_are_refused(
    scene: int, studio: Studio, made: FilmResult
) -> None:
    latents: list[Any] = latents_of(made.film)
    latents[scene] = None
    film = lying_film(studio, made, latents)
    with pytest.raises(InputError, match=f"scene {scene + 1} of a crossfade has no latents"):
        load_film(film, studio.source)


def test_latents_that_it_can_take_are_the_runs_word_for_them(studio: Studio, made: FilmResult) -> None:
    film = lying_film(studio, made, [0 * latents_FCHW for latents_FCHW in latents_of(made.film)])
    (note,) = load_film(film, studio.source).notes
    assert note.endswith("instead of copied: its pictures were encoded again since it was written")


def test_scenes_the_model_cannot_make_are_refused(studio: Studio, made: FilmResult) -> None:
    def shift(document: dict[str, Any]) -> None:
        not_enlarged(document)
        document["runs"][0]["recipe"]["video"]["num_frames"] = None
        for scene, first, num_frames in zip(document["scenes"], (0, 2), (4, 6), strict=True):
            scene |= {"first_frame": first, "num_frames": num_frames}

    film = rewritten(made.film, studio.path("odd"), shift)
    told = r"odd\.mp4: .*tiny cannot continue scenes of 4 frames of 16x16: num_frames: 4 is not"
    with pytest.raises(InputError, match=told):
        load_film(film, studio.source)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("num_frames", 4, "begins at frame 3, not at 2"),
        ("first_frame", 7, "begins at frame 7, not at 3"),
        ("run", 5, "is of run 5, which does not exist"),
        ("overlap", 0, "begins at frame 3, not at 5"),
    ],
)
def test_provenance_that_lies_about_its_scenes_is_refused_by_every_command(
    key: str, value: int, told: str, studio: Studio, made: FilmResult
) -> None:
    def lie(document: dict[str, Any]) -> None:
        not_enlarged(document)
        document["scenes"][0 if key == "num_frames" else 1][key] = value

    film = rewritten(made.film, studio.path("scenes"), lie)
    before = contents(studio.folder)
    for command in (
        lambda: studio.extend(film, "a fish"),
        lambda: studio.reroll(film, 0),
        lambda: studio.reproduce(film),
    ):
        with pytest.raises(ProvenanceError, match=rf"scenes\.mp4: .*{told}"):
            command()
    assert contents(studio.folder) == before


def test_a_film_of_another_size_than_it_tells_is_refused(studio: Studio, made: FilmResult) -> None:
    film = rewritten(made.film, studio.path("size"), lambda _: None)
    with pytest.raises(ProvenanceError, match="describes 8 frames of 32x32, the film has 8 frames of 16x16"):
        studio.extend(film, "a fish")


def test_a_film_without_provenance_has_no_scenes_to_go_back_to(studio: Studio, made: FilmResult) -> None:
    film = write_plain(studio.path("theirs"), read_film(made.film).frames_PHWC)
    with pytest.raises(InputError, match=r"theirs\.mp4: was not made by m2d; it can be extended, but"):
        studio.reroll(film, 0)


def test_a_film_whose_run_did_not_finish_is_not_gone_on_from_without_its_latents(
    studio: Studio, made: FilmResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = copied(made.film, studio.path("halfway"))

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("m2d.film.make.finish_run", stop)
        with pytest.raises(KeyboardInterrupt):
            studio.extend(film, "a fish", out=film, force=True)
    before = contents(studio.folder)
    told = r"halfway\.mp4: the run that wrote it was interrupted .* resume that run"
    for command in (lambda: studio.extend(film, "a bird"), lambda: studio.reroll(film, 0)):
        with pytest.raises(InputError, match=told):
            command()
    assert contents(studio.folder) == before
    # Whoever does not want the latents can have it without.
    shutil.rmtree(journal_folder_of(film))
    assert studio.extend(film, "a bird").provenance.runs[2].kind == "footage"


def test_frames_that_are_kept_beside_the_film_are_what_the_provenance_tells(
    studio: Studio, made: FilmResult
) -> None:
    bare = Path(shutil.copy(made.film, studio.path("bare frames")))
    grown = studio.extend(bare, "a fish")
    film = load_film(grown.film, studio.source)
    for scene, record in zip(film.scenes[:2], grown.provenance.scenes[:2], strict=True):
        assert scene.frames_PHWC is not None
        assert array_digest(scene.frames_PHWC) == record.frames_sha256
    assert film.scenes[2].frames_PHWC is None
    assert read_run(grown.film).provenance == grown.provenance


def test_a_length_that_only_the_record_has_is_not_inherited(studio: Studio, made: FilmResult) -> None:
    def lie(document: dict[str, Any]) -> None:
        lengths = [scene["num_frames"] for scene in document["scenes"]]
        not_enlarged(document)
        recipe = document["runs"][0]["recipe"]
        recipe["video"]["num_frames"] = 9997
        for scene, length in zip(recipe["scenes"], lengths, strict=True):
            scene["frames"] = length

    film = rewritten(made.film, studio.path("lie"), lie)
    with pytest.raises(InputError, match="missing; the recipe in the film asks for 9997 frames a scene, and"):
        studio.extend(film, "a fish")
