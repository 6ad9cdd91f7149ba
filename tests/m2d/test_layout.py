from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from m2d.layout import MASKS, AttentionCall, LayoutError, SceneLayout, Span

Bools = npt.NDArray[np.bool_]

NAMED = [mask for mask in MASKS if mask != "window:k"]
ALL_MASKS = [*NAMED, "window:1", "window:2", "window:3", "window:9"]
# In `talc` a text sees no video, not even its own scene's.
WHOLE_SCENES = [mask for mask in ALL_MASKS if mask != "talc"]
SYMMETRIC = ["isolated", "mask2dit", "shared-text", "cross-text", "full", "window:1"]


@st.composite
def layouts(draw: st.DrawFn, masks: list[str] | None = None) -> SceneLayout:
    num_scenes = draw(st.integers(2, 6))
    return SceneLayout.build(
        draw(st.sampled_from(masks or ALL_MASKS)),
        text_tokens=draw(st.lists(st.integers(1, 5), min_size=num_scenes, max_size=num_scenes)),
        latent_frames=draw(st.lists(st.integers(1, 4), min_size=num_scenes, max_size=num_scenes)),
        tokens_per_frame=draw(st.integers(1, 4)),
    )


def story(mask: str) -> SceneLayout:
    return SceneLayout.build(mask, text_tokens=(3, 2, 4), latent_frames=(2, 1, 3), tokens_per_frame=2)


def positions(spans: tuple[Span, ...]) -> list[int]:
    return [position for span in spans for position in range(span.start, span.stop)]


def expand(calls: tuple[AttentionCall, ...], num_tokens: int) -> Bools:
    mask = np.zeros((num_tokens, num_tokens), dtype=np.bool_)
    for call in calls:
        mask[np.ix_(positions(call.queries), positions(call.keys))] = True
    return mask


def oracle(layout: SceneLayout) -> Bools:
    """The table of masks once more, token by token, sharing no code with the layout."""
    texts = np.repeat(np.arange(layout.num_scenes), layout.text_tokens)
    videos = np.repeat(
        np.arange(layout.num_scenes), np.multiply(layout.latent_frames, layout.tokens_per_frame)
    )
    scene = np.concatenate([texts, videos])
    is_video = np.arange(len(scene)) >= len(texts)
    frame = [
        f for count in layout.latent_frames for f in range(count) for _ in range(layout.tokens_per_frame)
    ]
    is_first = np.concatenate([np.zeros(len(texts), dtype=np.bool_), np.equal(frame, 0)])
    same = scene[:, None] == scene[None, :]
    both_video = is_video[:, None] & is_video[None, :]
    no_video = ~is_video[:, None] & ~is_video[None, :]
    back = scene[:, None] - scene[None, :]
    if layout.mask.startswith("window:"):
        return same | (both_video & (back >= 0) & (back < int(layout.mask.removeprefix("window:"))))
    return {
        "isolated": same,
        "mask2dit": same | both_video,
        "shared-text": same | both_video | no_video,
        "cross-text": same | ~no_video,
        "full": np.ones_like(same),
        "causal": same | (both_video & (back >= 0)),
        "anchor": same | (both_video & is_first[None, :]),
        "talc": (same & (is_video[:, None] | no_video)) | both_video,
    }[layout.mask]


@given(layouts())
def test_dense_mask_equals_the_table_of_masks(layout: SceneLayout) -> None:
    np.testing.assert_array_equal(layout.dense(), oracle(layout))


@given(layouts())
def test_expanded_plan_equals_the_dense_mask(layout: SceneLayout) -> None:
    np.testing.assert_array_equal(expand(layout.plan(), layout.num_tokens), layout.dense())


@given(layouts())
def test_every_token_is_a_query_of_exactly_one_call(layout: SceneLayout) -> None:
    queries = [position for call in layout.plan() for position in positions(call.queries)]
    assert sorted(queries) == list(range(layout.num_tokens))


@given(layouts())
def test_no_two_calls_share_their_keys(layout: SceneLayout) -> None:
    keys = [call.keys for call in layout.plan()]
    assert len(set(keys)) == len(keys)


@given(layouts())
def test_spans_of_a_call_ascend_and_are_merged_where_adjacent(layout: SceneLayout) -> None:
    for call, name in itertools.product(layout.plan(), ("queries", "keys")):
        spans = getattr(call, name)
        assert all(before.stop < after.start for before, after in itertools.pairwise(spans))
        assert all(len(span) > 0 for span in spans)


@given(layouts())
def test_segments_tile_the_sequence_text_first(layout: SceneLayout) -> None:
    starts = [segment.start for segment in layout.segments]
    assert starts == [0, *(segment.stop for segment in layout.segments)][:-1]
    assert layout.segments[-1].stop == layout.num_tokens
    assert all((s.kind == "text") == (s.start < layout.num_text_tokens) for s in layout.segments)


@given(layouts(), st.data())
def test_plan_for_some_scenes_is_the_plan_of_their_video_rows(
    layout: SceneLayout, data: st.DataObject
) -> None:
    scenes = data.draw(st.sets(st.integers(0, layout.num_scenes - 1), min_size=1))
    rows = [row for scene in sorted(scenes) for row in positions((layout.video_span(scene),))]
    expected = np.zeros_like(layout.dense())
    expected[rows] = layout.dense()[rows]
    calls = layout.plan_for(scenes)
    np.testing.assert_array_equal(expand(calls, layout.num_tokens), expected)
    assert sorted(position for call in calls for position in positions(call.queries)) == rows


@given(layouts(SYMMETRIC))
def test_symmetric_masks_are_symmetric(layout: SceneLayout) -> None:
    np.testing.assert_array_equal(layout.dense(), layout.dense().T)


@given(layouts(WHOLE_SCENES))
def test_every_token_sees_its_own_scene(layout: SceneLayout) -> None:
    for scene in range(layout.num_scenes):
        own = positions((layout.text_span(scene), layout.video_span(scene)))
        assert layout.dense()[np.ix_(own, own)].all()


def permuted(layout: SceneLayout, order: list[int]) -> tuple[SceneLayout, list[int]]:
    other = SceneLayout.build(
        layout.mask,
        text_tokens=[layout.text_tokens[scene] for scene in order],
        latent_frames=[layout.latent_frames[scene] for scene in order],
        tokens_per_frame=layout.tokens_per_frame,
    )
    texts = tuple(layout.text_span(scene) for scene in order)
    return other, positions(texts + tuple(layout.video_span(scene) for scene in order))


@given(layouts([*SYMMETRIC, "anchor", "talc"]), st.data())
def test_permuting_scenes_permutes_masks_without_an_order(layout: SceneLayout, data: st.DataObject) -> None:
    other, tokens = permuted(layout, data.draw(st.permutations(range(layout.num_scenes))))
    np.testing.assert_array_equal(other.dense(), layout.dense()[np.ix_(tokens, tokens)])


@given(layouts(["causal", "window:2", "window:3"]))
def test_reversing_scenes_transposes_masks_with_an_order(layout: SceneLayout) -> None:
    other, tokens = permuted(layout, list(reversed(range(layout.num_scenes))))
    np.testing.assert_array_equal(other.dense(), layout.dense().T[np.ix_(tokens, tokens)])


@given(st.sampled_from(WHOLE_SCENES))
def test_single_scene_has_nothing_to_mask(mask: str) -> None:
    layout = SceneLayout.build(mask, text_tokens=(3,), latent_frames=(4,), tokens_per_frame=2)
    whole = (Span(0, 11),)
    assert layout.plan() == (AttentionCall(whole, whole),)


def test_mask2dit_makes_two_calls_per_scene() -> None:
    layout = SceneLayout.build(
        "mask2dit", text_tokens=[226] * 3, latent_frames=[13] * 3, tokens_per_frame=30 * 45
    )
    first, every = Span(678, 18_228), Span(678, 53_328)
    assert len(layout.plan()) == 6
    assert layout.plan()[0] == AttentionCall((Span(0, 226),), (Span(0, 226), first))
    assert layout.plan()[3] == AttentionCall((first,), (Span(0, 226), every))
    assert layout.plan()[4] == AttentionCall((Span(18_228, 35_778),), (Span(226, 452), every))


@pytest.mark.parametrize(
    ("mask", "num_calls"),
    [
        ("isolated", 3),
        ("mask2dit", 6),
        ("shared-text", 6),
        ("cross-text", 4),
        ("full", 1),
        ("causal", 5),
        ("window:2", 5),
        ("anchor", 6),
        ("talc", 6),
    ],
)
def test_masks_make_as_few_calls_as_they_have_different_rows(mask: str, num_calls: int) -> None:
    assert len(story(mask).plan()) == num_calls == len({row.tobytes() for row in story(mask).dense()})


def test_anchor_scene_of_one_latent_frame_has_no_rest() -> None:
    labels = [segment.label for segment in story("anchor").segments]
    assert labels == ["T1", "T2", "T3", "V1f", "V1r", "V2f", "V3f", "V3r"]


def test_frame_spans_count_latent_frames_across_scenes() -> None:
    assert [story("full").frame_span(scene) for scene in range(3)] == [Span(0, 2), Span(2, 3), Span(3, 6)]


def test_digest_distinguishes_every_layout() -> None:
    made = [
        SceneLayout.build(mask, text_tokens=texts, latent_frames=frames, tokens_per_frame=tokens)
        for num_scenes in (1, 2, 3)
        for mask in ALL_MASKS
        for texts in itertools.product((1, 2), repeat=num_scenes)
        for frames in itertools.product((1, 2), repeat=num_scenes)
        for tokens in (1, 2)
    ]
    assert len({layout.digest() for layout in made}) == len(set(made)) == len(made)


@given(layouts())
def test_equal_layouts_are_equal_keys_with_equal_digests(layout: SceneLayout) -> None:
    again = SceneLayout.build(
        layout.mask,
        text_tokens=list(layout.text_tokens),
        latent_frames=np.array(layout.latent_frames).tolist(),
        tokens_per_frame=layout.tokens_per_frame,
    )
    assert {layout: 1}[again] == 1
    assert again.digest() == layout.digest()


def test_digest_stays_the_same_between_versions() -> None:
    digest = "17261951115b48d991d63822a4d369b65a61088b96784411f0796c1715988a6e"
    assert story("mask2dit").digest() == digest


def test_layout_and_its_matrix_cannot_be_changed() -> None:
    layout = story("mask2dit")
    with pytest.raises(dataclasses.FrozenInstanceError, match="mask"):
        layout.mask = "full"  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValueError, match="read-only"):
        layout.may_attend[0, 0] = False


@pytest.mark.parametrize(
    ("text_tokens", "latent_frames", "tokens_per_frame", "message"),
    [
        ((), (), 1, "text_tokens: no scene"),
        ((3, 3), (1,), 1, "latent_frames: 1 numbers, but text_tokens has 2"),
        ((3, 0), (1, 1), 1, r"text_tokens\[1\]: 0 is below 1"),
        ((3, 3), (-2, 1), 1, r"latent_frames\[0\]: -2 is below 1"),
        ((3, 3), (1, 1), 0, r"tokens_per_frame: 0 is below 1"),
    ],
)
def test_impossible_lengths_are_refused(
    text_tokens: tuple[int, ...], latent_frames: tuple[int, ...], tokens_per_frame: int, message: str
) -> None:
    with pytest.raises(LayoutError, match=message):
        SceneLayout.build(
            "mask2dit",
            text_tokens=text_tokens,
            latent_frames=latent_frames,
            tokens_per_frame=tokens_per_frame,
        )


@pytest.mark.parametrize("scene", [-1, 3])
def test_spans_of_absent_scenes_are_refused(scene: int) -> None:
    for span_of in (story("full").text_span, story("full").frame_span, story("full").video_span):
        with pytest.raises(IndexError, match=f"scene {scene}: this layout has scenes 0 to 2"):
            span_of(scene)


@pytest.mark.parametrize("scenes", [[], [-1], [0, 3]])
def test_plan_for_absent_scenes_is_refused(scenes: list[int]) -> None:
    with pytest.raises(ValueError, match="give one or more of 0 to 2"):
        story("mask2dit").plan_for(scenes)
