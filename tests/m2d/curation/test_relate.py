"""Windows follow each other in one film, lie in the range, and are joined without overlap."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import pytest

from m2d.curation.embed import PairEmbedder
from m2d.curation.relate import join_windows, judge_windows, runs_of
from m2d.curation.settings import RelateSettings
from m2d.curation.shots import Shot
from m2d.evaluation.embedder import Features
from tests.m2d.curation.test_filter import SHOT


def shots_at(*starts_s: float, film: str = "a.mp4") -> list[Shot]:
    return [replace(SHOT, film=film, start_s=start_s, end_s=start_s + 4) for start_s in starts_s]


def test_a_gap_or_another_film_ends_a_run() -> None:
    shots = [*shots_at(0, 4, 20), *shots_at(24, film="b.mp4")]
    assert runs_of(shots, max_gap_s=2.0) == [[0, 1], [2], [3]]


def test_a_window_is_kept_in_the_range_alone() -> None:
    shots = shots_at(0, 4, 8, 12, 16)
    sims = {(0, 1): 0.8, (1, 2): 0.9, (2, 3): 0.2, (3, 4): 0.999}
    settings = RelateSettings(num_shots=2)
    lines = judge_windows(shots, settings, sim_range=(0.5, 0.95), similarity=lambda pair: sims[tuple(pair)])
    assert [line.is_kept for line in lines] == [True, True, False, False]
    assert lines[2].reason == "is unrelated: a similarity is 0.200, below 0.5"
    assert lines[3].reason == "repeats itself: a similarity is 0.999, above 0.95"
    (group,) = join_windows(lines, shots, settings, similarity=lambda pair: sims[tuple(pair)])
    assert group.shots == tuple(shots[:3])
    assert group.similarities == (0.8, 0.9)


def test_a_joint_similarity_judges_a_window_at_once() -> None:
    shots = shots_at(0, 4, 8, 12)
    lines = judge_windows(
        shots,
        RelateSettings(),
        sim_range=(0.5, 1.0),
        similarity=lambda places: {(0, 1, 2): 0.7, (1, 2, 3): 0.3}[tuple(places)],
        is_joint=True,
    )
    assert [line.reason for line in lines] == ["", "is unrelated: a similarity is 0.300, below 0.5"]
    assert lines[0].outputs[0].similarities == (0.7,)


def test_a_group_has_no_window_that_was_rejected() -> None:
    # The second of five windows: the first and the third share a shot, which stays with the first.
    shots, settings = shots_at(*(4.0 * number for number in range(7))), RelateSettings()
    lines = judge_windows(
        shots,
        settings,
        sim_range=(0.5, 1.0),
        similarity=lambda places: 0.1 if tuple(places) == (1, 2, 3) else 0.9,
        is_joint=True,
    )
    groups = join_windows(lines, shots, settings, similarity=lambda _: 0.9)
    assert [group.shots for group in groups] == [tuple(shots[:3]), tuple(shots[3:])]


@pytest.mark.parametrize(("count", "sizes"), [(3, [3]), (6, [6]), (7, [4, 3]), (8, [4, 4]), (13, [5, 4, 4])])
def test_long_chains_are_divided_evenly(count: int, sizes: list[int]) -> None:
    shots, settings = shots_at(*(4.0 * number for number in range(count))), RelateSettings()
    lines = judge_windows(shots, settings, sim_range=(0, 1), similarity=lambda _: 0.5)
    groups = join_windows(lines, shots, settings, similarity=lambda _: 0.5)
    assert [len(group.shots) for group in groups] == sizes
    assert all(one.shots[-1].end_s <= two.shots[0].start_s for one, two in pairwise(groups))


class _Pictures:
    """An embedder whose vectors are its features."""

    extractors: ClassVar[dict[str, Any]] = {}

    def embeddings(self, features: Features) -> np.ndarray:
        return features["pictures"]


def test_two_shots_are_compared_by_the_cosine_of_their_embeddings() -> None:
    embedder = PairEmbedder(_Pictures())  # type: ignore[arg-type]  # only its embeddings are used
    assert embedder.likeness({"pictures": np.array([[3.0, 4.0], [4.0, 3.0]])}) == pytest.approx(0.96)
