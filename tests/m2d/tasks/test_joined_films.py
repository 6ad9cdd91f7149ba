"""Boundaries between scenes come out in the film as the recipe has them, and provenance tells the truth."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.decoded_film import read_film
from m2d.errors import RecipeError
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.loading import load_vae
from m2d.film.make import FilmResult
from m2d.video.digests import array_digest
from m2d.video.joining import colour_jump, colour_map, recolour
from tests.m2d.tasks.studio import PROMPTS, Studio, frames_of, latents_of, open_studio
from tests.m2d.video.grown_films import join_scenes

JOINED: list[Any] = [
    PROMPTS[0],
    {"prompt": PROMPTS[1], "join": {"crossfade": 2}, "frames": 9},
    {"prompt": PROMPTS[2], "match_colour": True},
    {"prompt": PROMPTS[3], "join": "continue", "frames": 1},
    {"prompt": PROMPTS[4], "join": "continue", "match_colour": True},
]
NUM_FRAMES = (5, 9, 5, 1, 5)
OVERLAPS = (0, 2, 0, 0, 0)


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def generated(studio: Studio) -> FilmResult:
    # Enlarged, so that the encoder keeps every pixel's colour.
    return studio.generate(name="generated", scenes=JOINED, video={"upscale": 2})


def decoded(studio: Studio, film: Path) -> list[np.ndarray]:
    codec = load_vae(studio.source, device="cpu", dtype=torch.float32).module
    return [CogVideoXVae(codec).decode(torch.from_numpy(latents_FCHW)) for latents_FCHW in latents_of(film)]


def made_scenes(studio: Studio, result: FilmResult) -> list[np.ndarray]:
    """The scenes' frames, from the latents and colour maps that are kept."""
    maps = [scene.colour_map_LC for scene in result.provenance.scenes]
    parts = zip(decoded(studio, result.film), maps, strict=True)
    return [frames if map_LC is None else recolour(frames, map_LC) for frames, map_LC in parts]


def test_frames_chapters_and_provenance_agree(studio: Studio, generated: FilmResult) -> None:
    film, scenes = read_film(generated.film), generated.provenance.scenes
    assert [scene.num_frames for scene in scenes] == list(NUM_FRAMES)
    assert [(scene.join, scene.overlap) for scene in scenes] == [
        ("cut", 0),
        ("crossfade", 2),
        ("cut", 0),
        ("continue", 0),
        ("continue", 0),
    ]
    assert len(film.frames_PHWC) == generated.provenance.num_frames == sum(NUM_FRAMES) - sum(OVERLAPS)
    assert [scene.first_frame for scene in scenes] == [0, 3, 12, 17, 18]
    begins = [chapter.start_s for chapter in film.chapters]
    assert begins == pytest.approx([scene.first_frame / 8 for scene in scenes], abs=1e-3)
    assert [array_digest(part) for part in made_scenes(studio, generated)] == frames_of(generated.provenance)


def test_the_film_shows_the_scenes_as_they_are_joined(studio: Studio, generated: FilmResult) -> None:
    made = made_scenes(studio, generated)
    joins = [scene.join for scene in studio.plan(scenes=JOINED).scenes]
    wanted_PHWC = np.concatenate(join_scenes(made, joins))
    shown_PHWC = read_film(generated.film).frames_PHWC
    # The encoder loses a little.
    assert np.abs(shown_PHWC.astype(int) - wanted_PHWC).mean() < 4


def test_colours_are_matched_to_the_scene_before_as_it_is_shown(
    studio: Studio, generated: FilmResult
) -> None:
    plain, made = decoded(studio, generated.film), made_scenes(studio, generated)
    scenes = generated.provenance.scenes
    assert [scene.colour_map is not None for scene in scenes] == [False, False, True, False, True]
    for index in (2, 4):
        map_LC = scenes[index].colour_map_LC
        assert map_LC is not None
        assert np.array_equal(map_LC, colour_map(plain[index], made[index - 1]))
        assert colour_jump(made[index - 1], made[index]) <= colour_jump(made[index - 1], plain[index])
    told = [scene.colour_jump for scene in scenes[1:]]
    joins = [scene.join for scene in studio.plan(scenes=JOINED).scenes[1:]]
    pairs = zip(itertools.pairwise(made), joins, strict=True)
    jumps = [colour_jump(*pair, join) for pair, join in pairs]
    assert scenes[0].colour_jump is None
    assert told == pytest.approx(jumps, abs=0.01)


def test_a_continued_scene_begins_with_the_last_frame_of_the_one_before(
    studio: Studio, generated: FilmResult
) -> None:
    codec = load_vae(studio.source, device="cpu", dtype=torch.float32).module
    latents, frames = latents_of(generated.film), decoded(studio, generated.film)
    for index in (3, 4):
        last_FCHW = CogVideoXVae(codec).encode(frames[index - 1][-1:]).numpy()
        assert np.array_equal(latents[index][:1], last_FCHW)
    assert generated.provenance.last_run.windows[0].targets == (0, 1, 2)
    assert [window.targets for window in generated.provenance.last_run.windows[1:]] == [(3,), (4,)]


def test_a_scene_that_continues_is_not_made_jointly_with_the_one_it_continues(studio: Studio) -> None:
    result = studio.generate(
        name="early", scenes=[PROMPTS[0], {"prompt": PROMPTS[1], "join": "continue"}, "a sea"]
    )
    windows = result.provenance.last_run.windows
    assert [(window.scenes, window.targets) for window in windows] == [
        ((0,), (0,)),
        ((0, 1), (1,)),
        ((0, 1, 2), (2,)),
    ]


@pytest.mark.parametrize("num_first", [3, 4])
def test_a_film_that_grows_by_such_scenes_is_the_whole_story(
    num_first: int, studio: Studio, generated: FilmResult
) -> None:
    film = studio.generate(name=f"first-{num_first}", scenes=JOINED[:num_first]).film
    out = studio.path(f"grown-{num_first}")
    for scene in JOINED[num_first:]:
        asked = {"frames": scene.get("frames", 5), "join": scene["join"]}
        grown = studio.extend(film, scene["prompt"], out=out, force=True, **asked)
        film = grown.film
    for ours, whole in zip(latents_of(film), latents_of(generated.film), strict=True):
        assert np.array_equal(ours, whole)
    places = [
        [(scene.join, scene.first_frame, scene.num_frames) for scene in result.provenance.scenes]
        for result in (grown, generated)
    ]
    assert places[0] == places[1]
    # All but the last, whose colours nobody asked to match.
    assert frames_of(grown.provenance)[:4] == frames_of(generated.provenance)[:4]


def test_an_extension_crossfades_out_of_the_film(studio: Studio, generated: FilmResult) -> None:
    asked = {"join": {"crossfade": 2}, "out": studio.path("faded")}
    result = studio.extend(generated.film, "a fish", "a bird", **asked)
    film = read_film(result.film)
    num_frames = generated.provenance.num_frames + 2 * (5 - 2)
    assert len(film.frames_PHWC) == result.provenance.num_frames == num_frames
    assert [scene.overlap for scene in result.provenance.scenes] == [*OVERLAPS, 2, 2]
    assert film.chapters[-1].end_s == pytest.approx(num_frames / 8, abs=1e-3)
    assert frames_of(result.provenance)[:5] == frames_of(generated.provenance)


@pytest.mark.parametrize(
    ("join", "told"),
    [
        ({"crossfade": 5}, "command line: join: a crossfade of 5 frames, but the two scenes have room for 4"),
        ({"crossfade": 10_001}, "command line: join.* got 10001"),
        ("wipe", "command line: join: expected cut, continue or"),
    ],
)
def test_joins_that_cannot_be_are_refused(
    join: Any, told: str, studio: Studio, generated: FilmResult
) -> None:
    with pytest.raises(RecipeError, match=told):
        studio.extend(generated.film, "a fish", join=join, out=studio.path("never"))
