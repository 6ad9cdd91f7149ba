from __future__ import annotations

from itertools import pairwise

import pytest

from m2d.data.decode import VideoFacts
from m2d.data.frame_sampling import FpsRule, OfficialRule, Span

NEARLY_ONE = 1 - 2**-53


def _facts(num_frames: int, *, fps: float = 24.0, times_s: tuple[float, ...] = ()) -> VideoFacts:
    return VideoFacts(
        sha256="0" * 64,
        num_frames=num_frames,
        fps=fps,
        times_s=times_s,
        width=64,
        height=64,
        shape=1.0,
        notes=(),
    )


def _span(num_frames: int) -> Span:
    return Span(first=0, stop=num_frames)


def test_official_pretraining_starts_where_the_official_script_does() -> None:
    # Of 239 frames, 95 % are 227; 49 frames at stride 3 reach over 145; so starts are 11 to 82.
    rule, facts = OfficialRule(num_frames=49, is_trimmed=True), _facts(239)
    first, last = (rule.pick(facts, _span(239), draw=draw) for draw in (0.0, NEARLY_ONE))
    assert (first[0], last[0]) == (11, 82)
    assert first == tuple(range(11, 156, 3))
    assert len(last) == 49


@pytest.mark.parametrize(("num_frames", "is_kept"), [(163, False), (164, True)])
def test_official_pretraining_keeps_what_the_official_script_keeps(num_frames: int, is_kept: bool) -> None:
    reason = OfficialRule(num_frames=49, is_trimmed=True).unsuitable(_facts(num_frames), _span(num_frames))
    assert (reason == "") is is_kept


@pytest.mark.parametrize(("num_frames", "stride"), [(49, 1), (96, 1), (97, 2), (144, 2), (145, 3), (400, 3)])
def test_official_sft_takes_the_largest_stride_that_fits(num_frames: int, stride: int) -> None:
    rule = OfficialRule(num_frames=49, is_trimmed=False)
    for draw in (0.0, NEARLY_ONE):
        frames = rule.pick(_facts(num_frames), _span(num_frames), draw=draw)
        assert {after - before for before, after in pairwise(frames)} == {stride}
        assert 0 <= frames[0] <= frames[-1] < num_frames
    assert frames[-1] == num_frames - 1


def test_official_strides_refuse_a_variable_rate() -> None:
    facts = _facts(3, times_s=(0.0, 0.1, 0.9))
    assert "variable frame rate" in OfficialRule(num_frames=2, is_trimmed=False).unsuitable(facts, _span(3))


@pytest.mark.parametrize(
    ("fps", "expected"), [(8.0, (0, 1, 2, 3, 4)), (24.0, (0, 3, 6, 9, 12)), (25.0, (0, 3, 6, 9, 12))]
)
def test_fps_takes_the_frames_nearest_to_equal_steps_of_time(fps: float, expected: tuple[int, ...]) -> None:
    assert FpsRule(fps=8, num_frames=5).pick(_facts(60, fps=fps), _span(60), draw=0.0) == expected


def test_fps_has_one_start_in_a_video_of_exactly_the_models_length() -> None:
    rule, facts = FpsRule(fps=8, num_frames=9), _facts(9, fps=8.0)
    assert rule.unsuitable(facts, _span(9)) == ""
    assert rule.pick(facts, _span(9), draw=NEARLY_ONE) == tuple(range(9))
    assert "has 8 frames" in rule.unsuitable(_facts(8, fps=8.0), _span(8))


def test_fps_follows_the_times_of_a_variable_rate() -> None:
    facts = _facts(6, fps=5.0, times_s=(0.0, 0.1, 0.2, 0.5, 0.9, 1.0))
    assert FpsRule(fps=2, num_frames=3).pick(facts, _span(6), draw=0.0) == (0, 3, 5)


def test_fps_shows_no_frame_twice() -> None:
    reason = FpsRule(fps=24, num_frames=9).unsuitable(_facts(60, fps=12.0), _span(60))
    assert "has 12 frames per second, fewer than the 24 asked for" in reason


def test_clips_stay_within_the_span() -> None:
    rule, span = FpsRule(fps=8, num_frames=5), Span(first=10, stop=40)
    for draw in (0.0, 0.5, NEARLY_ONE):
        frames = rule.pick(_facts(60), span, draw=draw)
        assert 10 <= frames[0] <= frames[-1] < 40
