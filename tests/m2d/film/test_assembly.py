"""From latents to scenes as they are shown: what is decoded, what is taken as it was, and what is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from m2d.errors import Interrupted
from m2d.film.assembly import AssembledFilm, assemble
from m2d.film.loaded_film import LoadedFilm, LoadedScene
from m2d.geometry import SceneGeometry
from m2d.joins import CUT, Join
from m2d.pipeline.decoding import SceneDecoder
from m2d.pipeline.observer import never_stop
from m2d.progress import Clock
from m2d.recipe.plan import ScenePlan
from m2d.video.digests import array_digest
from m2d.video.joining import recolour
from tests.m2d.tasks.journals import RecordingReporter

SHAPE = SceneGeometry.of_pixels(num_frames=1, height=4, width=4)
DARKER_LC = np.repeat(np.maximum(np.arange(256) - 10, 0).astype(np.uint8)[:, None], 3, axis=1)


class FakeDecoder:
    """Decodes a scene to one grey frame of the level that its latents hold, by the ways it is told."""

    def __init__(self, ways: Sequence[str]) -> None:
        self.ways = list(ways)
        self.strategy = "plain"
        self.decoded: list[int] = []

    def decode(self, latents_FCHW: torch.Tensor, *, scene: int) -> np.ndarray:
        self.strategy = self.ways.pop(0) if self.ways else self.strategy
        self.decoded.append(scene)
        return grey(int(latents_FCHW.flatten()[0]))


def grey(level: int) -> np.ndarray:
    return np.full((1, 4, 4, 3), level, np.uint8)


def latents(level: int) -> np.ndarray:
    return np.full((1, 1, 1, 1), level, np.float32)


def given(level: int, **more: Any) -> LoadedScene:
    plan = ScenePlan(prompt="a day", geometry=SHAPE, seed=1, match_colour="colour_map_LC" in more)
    return LoadedScene(plan=plan, run=0, latents_FCHW=latents(level), **more)


def assembled(
    levels: Sequence[int],
    *,
    old: Sequence[LoadedScene] = (),
    runs: Sequence[int] | None = None,
    matched: Sequence[int] = (),
    joins: Sequence[Join] = (),
    decoder: FakeDecoder | None = None,
    told: RecordingReporter | None = None,
    check_stop: Callable[[], None] = never_stop,
) -> AssembledFilm:
    film = LoadedFilm(title="A", scenes=tuple(old), runs=(), digest=None, first_scene=0, fps=8, upscale=1)
    plans = [
        ScenePlan(
            prompt="a day",
            geometry=SHAPE,
            seed=old[number].plan.seed if number < len(old) else 1,
            match_colour=number in matched,
            join=join,
        )
        for number, join in enumerate(joins or [CUT] * len(levels))
    ]
    return assemble(
        plans,
        {number: torch.from_numpy(latents(level)) for number, level in enumerate(levels)},
        runs=runs or [0] * len(old) + [1] * (len(levels) - len(old)),
        film=film,
        decoder=cast(SceneDecoder, decoder or FakeDecoder([])),
        clock=Clock(told or RecordingReporter()),
        check_stop=check_stop,
    )


def test_frames_that_are_there_are_not_decoded() -> None:
    decoder = FakeDecoder([])
    made = assembled([100, 110], old=[given(100, frames_PHWC=grey(99))], decoder=decoder)
    assert decoder.decoded == [1]
    assert [scene.frames_PHWC[0, 0, 0, 0] for scene in made.scenes] == [99, 110]


def test_a_scene_that_is_made_anew_is_decoded_whatever_it_was() -> None:
    decoder = FakeDecoder([])
    old = [given(100, frames_PHWC=grey(99)), given(110)]
    made = assembled([105, 110], old=old, runs=[1, 0], decoder=decoder)
    assert decoder.decoded == [0, 1]
    assert [scene.run for scene in made.scenes] == [1, 0]
    assert made.scenes[0].frames_PHWC[0, 0, 0, 0] == 105


def test_an_old_scene_keeps_its_colours_though_the_one_before_it_has_changed() -> None:
    was = recolour(grey(110), DARKER_LC)
    told = RecordingReporter()
    old = [given(100), given(110, colour_map_LC=DARKER_LC, frames_sha256=array_digest(was))]
    made = assembled([150, 110], old=old, runs=[1, 0], matched=[1], told=told)
    assert np.array_equal(made.scenes[1].frames_PHWC, was)
    assert np.array_equal(cast(Any, made.scenes[1].colour_map_LC), DARKER_LC)
    assert made.scenes[1].colour_jump == pytest.approx(50)
    assert told.warnings == []


def test_a_new_scene_is_matched_to_the_one_before_it_as_that_is_shown() -> None:
    old = [given(100), given(110, colour_map_LC=DARKER_LC)]
    made = assembled([100, 110, 120], old=old, matched=[1, 2])
    assert [scene.frames_PHWC[0, 0, 0, 0] for scene in made.scenes] == [100, 100, 100]
    assert made.scenes[2].colour_jump == 0


def test_the_first_scene_has_nothing_to_be_matched_to() -> None:
    made = assembled([100, 120], matched=[0])
    assert [scene.colour_map_LC for scene in made.scenes] == [None, None]
    assert [scene.colour_jump for scene in made.scenes] == [None, pytest.approx(20)]


def test_an_old_scene_that_comes_out_otherwise_is_told() -> None:
    told = RecordingReporter()
    old = [given(100, frames_sha256=array_digest(grey(100))), given(110, frames_sha256="0" * 64)]
    assembled([100, 110], old=old, told=told)
    assert [warning.split(":")[0] for warning in told.warnings] == [
        "scene 2 decodes to other frames than before"
    ]


@pytest.mark.parametrize(
    ("ways", "is_tiled"),
    [
        (["plain", "plain", "plain"], False),
        (["plain", "sliced", "cpu"], False),
        (["plain", "tiled", "tiled"], True),
        # Some scenes are in tiles, though the last was decoded otherwise.
        (["tiled", "cpu", "cpu"], True),
    ],
)
def test_tiles_are_told_of_if_any_scene_was_decoded_in_them(ways: list[str], is_tiled: bool) -> None:
    assert assembled([100, 110, 120], decoder=FakeDecoder(ways)).is_tiled is is_tiled


def test_a_stop_is_obeyed_between_scenes() -> None:
    decoder = FakeDecoder([])

    def check_stop() -> None:
        if decoder.decoded:
            raise Interrupted("SIGTERM")

    with pytest.raises(Interrupted, match="SIGTERM"):
        assembled([100, 110], decoder=decoder, check_stop=check_stop)
    assert decoder.decoded == [0]


def test_a_new_scene_that_leaves_the_frame_of_a_video_that_it_continues_is_reported() -> None:
    told = RecordingReporter()
    joins = [CUT, Join(kind="continue"), Join(kind="continue")]
    video = given(100, frames_PHWC=grey(100))
    video = replace(video, plan=replace(video.plan, seed=None))
    assembled([100, 130, 200], old=[video], joins=joins, told=told)
    # The third scene continues one that the model made.
    assert len(told.warnings) == 1
    assert "scene 2 does not continue the picture before it" in told.warnings[0]
    assert "by 30 levels" in told.warnings[0]
