from __future__ import annotations

import numpy as np
import pytest

from m2d.evaluation.consistency import cosines, score_story, tally_scores
from m2d.evaluation.intervals import figure_of


def test_a_repeated_scene_has_full_visual_consistency() -> None:
    embeddings_ND = np.tile(np.random.default_rng(0).normal(size=16), (3, 1))
    assert score_story(cosines(embeddings_ND, embeddings_ND), None).visual_N == pytest.approx([100.0] * 3)


def test_permuted_prompts_lower_semantic_consistency_and_cross_talk() -> None:
    match_NN = 0.2 + 0.6 * np.eye(3)
    own, permuted = (score_story(np.eye(3), each) for each in (match_NN, match_NN[:, [1, 2, 0]]))
    assert own.semantic_N == pytest.approx([80] * 3)
    assert permuted.semantic_N == pytest.approx([20] * 3)
    assert own.cross_talk_N == pytest.approx([60] * 3)
    assert permuted.cross_talk_N == pytest.approx([-30] * 3)


def test_sequence_is_the_mean_of_visual_and_semantic() -> None:
    stories = [score_story(np.full((2, 2), 0.5), np.full((2, 2), 0.3)) for _ in range(4)]
    figures = {name: figure_of(tally).value for name, tally in tally_scores(stories).items()}
    assert figures == pytest.approx({"visual": 50, "semantic": 30, "cross_talk": 0, "sequence": 40})


def test_a_single_scene_has_no_visual_score_and_does_not_count() -> None:
    stories = [score_story(np.ones((1, 1)), np.full((1, 1), 0.9)), score_story(np.eye(2), np.eye(2))]
    tallies = tally_scores(stories)
    assert figure_of(tallies["visual"]).count == 1
    assert figure_of(tallies["semantic"]).value == pytest.approx(95)


def test_an_empty_embedding_resembles_nothing() -> None:
    embeddings_ND = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert cosines(embeddings_ND, embeddings_ND) == pytest.approx(np.diag([0.0, 1.0]))
