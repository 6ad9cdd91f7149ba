from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.geometry import GeometryError, ModelGeometry

COGVIDEOX = ModelGeometry(
    spatial_compression=8,
    temporal_compression=4,
    patch_size=2,
    latent_channels=16,
    max_text_tokens=226,
    default_height=480,
    default_width=720,
    default_num_frames=49,
    default_fps=8,
    num_scenes=3,
)


def test_cogvideox_scene_has_13_latent_frames_and_17550_video_tokens() -> None:
    scene = COGVIDEOX.scene(num_frames=49, height=480, width=720)
    assert (scene.num_latent_frames, scene.latent_height, scene.latent_width) == (13, 60, 90)
    assert scene.tokens_per_frame == 30 * 45
    assert scene.num_video_tokens == 17_550


def test_single_frame_is_one_latent_frame() -> None:
    assert COGVIDEOX.num_latent_frames(1) == 1
    assert COGVIDEOX.num_frames(1) == 1


@given(
    num_latent_frames=st.integers(min_value=1, max_value=500), temporal=st.integers(min_value=1, max_value=16)
)
def test_frames_survive_the_round_trip_through_latent_frames(num_latent_frames: int, temporal: int) -> None:
    geometry = dataclasses.replace(COGVIDEOX, temporal_compression=temporal)
    assert geometry.num_latent_frames(geometry.num_frames(num_latent_frames)) == num_latent_frames


@pytest.mark.parametrize(
    ("num_frames", "message"),
    [
        (48, r"num_frames: 48 is not 4k\+1; use 45 or 49"),
        (50, r"num_frames: 50 is not 4k\+1; use 49 or 53"),
        (2, r"num_frames: 2 is not 4k\+1; use 1 or 5"),
        (0, r"num_frames: 0 is not 4k\+1; use 1, 5 or more"),
        (-3, r"num_frames: -3 is not 4k\+1; use 1, 5 or more"),
    ],
)
def test_wrong_number_of_frames_names_the_nearest_allowed(num_frames: int, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        COGVIDEOX.num_latent_frames(num_frames)


def test_no_latent_frame_is_refused() -> None:
    with pytest.raises(GeometryError, match="num_latent_frames: 0 is below 1"):
        COGVIDEOX.num_frames(0)


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [
        (100, 720, "height: 100 is not a positive multiple of 16; use 96 or 112"),
        (480, 8, "width: 8 is not a positive multiple of 16; use 16, 32 or more"),
        (0, 720, "height: 0 is not a positive multiple of 16; use 16, 32 or more"),
        (480, -16, "width: -16 is not a positive multiple of 16; use 16, 32 or more"),
    ],
)
def test_wrong_size_names_the_nearest_allowed(height: int, width: int, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        COGVIDEOX.scene(num_frames=49, height=height, width=width)


def test_all_wrong_sizes_are_reported_at_once() -> None:
    with pytest.raises(GeometryError, match=r"(?s)num_frames: 48.*height: 100.*width: 7\b"):
        COGVIDEOX.scene(num_frames=48, height=100, width=7)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "8"])
def test_config_values_must_be_positive_whole_numbers(value: object) -> None:
    with pytest.raises(GeometryError, match=rf"patch_size: {value!r} is not a positive whole number"):
        dataclasses.replace(COGVIDEOX, patch_size=value)  # type: ignore[arg-type]  # the point of the test
