from __future__ import annotations

import itertools

import numpy as np
import pytest

from m2d.layout import LayoutError, SceneLayout, Span

BLIND_TO_OTHER_TEXTS = ["isolated", "mask2dit", "causal", "window:1", "window:2", "anchor", "talc"]


def story(mask: str) -> SceneLayout:
    return SceneLayout.build(mask, text_tokens=(3, 2, 4), latent_frames=(2, 1, 3), tokens_per_frame=2)


def sees(layout: SceneLayout, query: Span, key: Span) -> bool:
    block = layout.dense()[query.as_slice, key.as_slice]
    assert block.all() or not block.any()
    return bool(block.all())


@pytest.mark.parametrize("mask", BLIND_TO_OTHER_TEXTS)
def test_text_segment_cannot_see_other_scenes(mask: str) -> None:
    layout = story(mask)
    for query, key in itertools.permutations(range(3), 2):
        assert not sees(layout, layout.text_span(query), layout.text_span(key))
        assert not sees(layout, layout.text_span(query), layout.video_span(key))


@pytest.mark.parametrize("mask", BLIND_TO_OTHER_TEXTS)
def test_video_segment_cannot_read_another_scenes_prompt(mask: str) -> None:
    layout = story(mask)
    for query, key in itertools.permutations(range(3), 2):
        assert not sees(layout, layout.video_span(query), layout.text_span(key))


@pytest.mark.parametrize("mask", ["mask2dit", "shared-text", "cross-text", "full", "talc"])
def test_video_segments_see_all_videos(mask: str) -> None:
    layout = story(mask)
    assert all(
        sees(layout, layout.video_span(query), layout.video_span(key))
        for query, key in itertools.product(range(3), repeat=2)
    )


def test_shared_text_lets_texts_see_texts_but_no_other_video() -> None:
    layout = story("shared-text")
    assert sees(layout, layout.text_span(0), layout.text_span(2))
    assert not sees(layout, layout.text_span(0), layout.video_span(2))


def test_cross_text_ties_texts_to_all_videos_but_no_other_text() -> None:
    layout = story("cross-text")
    assert sees(layout, layout.text_span(0), layout.video_span(2))
    assert sees(layout, layout.video_span(2), layout.text_span(0))
    assert not sees(layout, layout.text_span(0), layout.text_span(2))


def test_causal_video_sees_earlier_scenes_and_no_later_one() -> None:
    layout = story("causal")
    assert sees(layout, layout.video_span(2), layout.video_span(0))
    assert not sees(layout, layout.video_span(0), layout.video_span(1))


def test_window_of_two_sees_its_own_scene_and_the_one_before() -> None:
    layout = story("window:2")
    assert sees(layout, layout.video_span(2), layout.video_span(1))
    assert not sees(layout, layout.video_span(2), layout.video_span(0))
    assert not sees(layout, layout.video_span(1), layout.video_span(2))


def test_window_of_one_attends_as_isolated_and_a_long_one_as_causal() -> None:
    np.testing.assert_array_equal(story("window:1").dense(), story("isolated").dense())
    np.testing.assert_array_equal(story("window:9").dense(), story("causal").dense())


def test_anchor_sees_only_the_first_latent_frame_of_other_scenes() -> None:
    layout = story("anchor")
    video = layout.video_span(2)
    first, rest = Span(video.start, video.start + 2), Span(video.start + 2, video.stop)
    assert sees(layout, layout.video_span(0), first)
    assert not sees(layout, layout.video_span(0), rest)
    assert sees(layout, first, rest)


def test_talc_text_sees_no_video_and_its_own_video_reads_it() -> None:
    layout = story("talc")
    assert not any(sees(layout, layout.text_span(1), layout.video_span(key)) for key in range(3))
    assert sees(layout, layout.text_span(1), layout.text_span(1))
    assert sees(layout, layout.video_span(1), layout.text_span(1))


@pytest.mark.parametrize("mask", ["", "window:k", "window:0", "window:02", "window:-1", "window:2 ", "Full"])
def test_unknown_mask_names_the_allowed_ones(mask: str) -> None:
    with pytest.raises(LayoutError, match=rf"mask: '{mask}' is not known; use one of isolated, .*window:2"):
        story(mask)
