"""Ranks of prompts and scenes whose vectors are made so that the ranks are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import pytest

from m2d.evaluation import ranking
from m2d.evaluation.consistency import Scores, cosines
from m2d.evaluation.embedder import Extractor, Features
from m2d.evaluation.intervals import Tally, figure_of
from m2d.evaluation.ranking import prompt_ranks, rank_of, scene_ranks


class Vectors:
    """An embedder of given vectors; the prompt `2 with some words` has the unit vector of axis 2."""

    name = distance_name = "vectors"
    text_networks: ClassVar[dict[str, str]] = {}
    extractors: Mapping[str, Extractor] = {}

    def embeddings(self, features: Features) -> Scores:
        return features["v"]

    def match(self, features: Features, prompts: Sequence[str]) -> Scores:
        axes = [int(prompt.split()[0]) for prompt in prompts]
        known = [np.nan if axis < 0 else 1 for axis in axes]
        return features["v"][:, axes] * known

    def distance_features(self, features: Features) -> Scores:
        return features["v"]

    def truth(self, stories: Sequence[tuple[Features, Sequence[str] | None]]) -> Mapping[str, Tally]:
        del stories
        return {}


def single(vectors: Sequence[Sequence[float]] | Scores) -> list[Features]:
    """Stories of one scene each."""
    return [{"v": np.array([vector], dtype=np.float64)} for vector in vectors]


def values(tallies: Mapping[str, Tally]) -> dict[str, float]:
    return {name: figure_of(tally).value for name, tally in tallies.items()}


@pytest.mark.parametrize(
    ("scores", "recall_1", "recall_5", "auc"),
    [
        ([9, 1, 2, 3, 4, 5], 1, 1, 1),
        ([4, 1, 2, 3, 5, 9], 0, 1, 0.6),
        ([0, 1, 2, 3, 4, 5], 0, 0, 0),
        # The tied share their places: first of two, and fourth to sixth.
        ([9, 9, 2, 3, 4, 5], 1 / 2, 1, 0.9),
        ([1, 1, 1, 3, 4, 5], 0, 2 / 3, 0.2),
        ([7, 7, 7, 7, 7, 7], 1 / 6, 5 / 6, 0.5),
        # The last digits of a sum are no difference.
        ([0.3, 0.1 + 0.2, 0, 0, 0, 0], 1 / 2, 1, 0.9),
        ([4, math.nan, 1, 2, 3, 5], 0, 1, 0.75),
    ],
)
def test_a_scene_finds_its_own_among_others(
    scores: list[float], recall_1: float, recall_5: float, auc: float
) -> None:
    rank = rank_of(np.array(scores, dtype=np.float64), np.arange(6) == 0)
    assert (rank.recall[1], rank.recall[5], rank.auc) == pytest.approx((recall_1, recall_5, auc))


def test_chance_is_what_equal_scores_have() -> None:
    draw = np.random.default_rng(4)
    for num_own, num_others in ((1, 8), (3, 8), (7, 2)):
        is_own_C = draw.permutation(np.arange(num_own + num_others) < num_own)
        equal = rank_of(np.zeros(len(is_own_C)), is_own_C)
        assert equal.recall == pytest.approx(equal.chance)
        assert equal.auc == 0.5
        orders = [draw.permutation(len(is_own_C)).astype(np.float64) for _ in range(2000)]
        found = np.mean([rank_of(scores_C, is_own_C).recall[1] for scores_C in orders])
        assert found == pytest.approx(equal.chance[1], abs=0.04)


def test_every_prompt_ranks_first_or_last_as_it_should() -> None:
    prompts = [[f"{axis} a"] for axis in range(12)]
    own, others = (
        values(prompt_ranks(Vectors(), single(each), prompts)) for each in (np.eye(12), -np.eye(12))
    )
    assert own == {"prompt_recall_1": 1, "prompt_recall_5": 1, "prompt_auc": 1}
    assert others == {"prompt_recall_1": 0, "prompt_recall_5": 0, "prompt_auc": 0}
    chances = {
        name: tally.chance for name, tally in prompt_ranks(Vectors(), single(np.eye(12)), prompts).items()
    }
    assert chances == pytest.approx({"prompt_recall_1": 1 / 12, "prompt_recall_5": 5 / 12, "prompt_auc": 0.5})


def test_equal_prompts_are_one_and_prompts_that_cannot_be_told_apart_share_their_place() -> None:
    vectors = np.eye(12)[[*range(10), 9, 9]]
    prompts = [[f"{axis} a"] for axis in range(10)] + [["9  a"], ["9 a\n"]]
    tallies = prompt_ranks(Vectors(), single(vectors), prompts)
    assert values(tallies) == {"prompt_recall_1": 1, "prompt_recall_5": 1, "prompt_auc": 1}
    assert tallies["prompt_recall_1"].chance == pytest.approx(1 / 10)
    prompts[-1] = ["9 b"]
    assert values(prompt_ranks(Vectors(), single(vectors), prompts))["prompt_recall_1"] == pytest.approx(
        10.5 / 12
    )


def test_a_prompt_without_a_score_is_neither_ranked_nor_a_rival() -> None:
    prompts = [[f"{axis} a"] for axis in (*range(10), -1)]
    tallies = prompt_ranks(Vectors(), single(np.eye(12)[:11]), prompts)
    assert tallies["prompt_auc"].counts_S.tolist() == [1.0] * 10 + [0.0]
    assert tallies["prompt_recall_1"].chance == pytest.approx(1 / 10)


def test_what_cannot_be_ranked_is_absent() -> None:
    assert prompt_ranks(Vectors(), single(np.eye(12)[:1]), [["0 a"]]) == {}
    assert prompt_ranks(Vectors(), [{"v": np.eye(12)[:3]}], [["0 a", "1 a", "2 a"]]) == {}
    assert prompt_ranks(Vectors(), single(np.eye(12)[:2]), [["0 a"], ["0 a"]]) == {}
    few = prompt_ranks(Vectors(), single(np.eye(12)[:9]), [[f"{axis} a"] for axis in range(9)])
    assert few.keys() == {"prompt_recall_1", "prompt_auc"}
    assert scene_ranks(Vectors(), [{"v": np.eye(3)}]) == {}
    assert scene_ranks(Vectors(), single(np.eye(3))) == {}


def test_scenes_find_those_of_their_own_story(monkeypatch: pytest.MonkeyPatch) -> None:
    together: list[Features] = [{"v": np.repeat(np.eye(4)[[axis]], 3, axis=0)} for axis in range(4)]
    apart: list[Features] = [{"v": np.eye(4)[[0, 1]]} for _ in range(4)]
    tallies = scene_ranks(Vectors(), together)
    assert values(tallies) == {"scene_recall_1": 1, "scene_auc": 1}
    assert tallies["scene_recall_1"].chance == pytest.approx(2 / 11)
    # Three scenes of other stories are equal to each scene, the other three as unlike it as its own.
    assert values(scene_ranks(Vectors(), apart)) == {"scene_recall_1": 0, "scene_auc": 0.25}
    # A story of one scene has rivals to offer, and nothing to find.
    assert scene_ranks(Vectors(), [*together, *single(np.eye(4)[:1])])["scene_auc"].counts_S.sum() == 4
    monkeypatch.setattr(ranking, "_BLOCK", 5)
    assert values(scene_ranks(Vectors(), together)) == {"scene_recall_1": 1, "scene_auc": 1}


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(8)
    features: list[Features] = [{"v": draw.normal(size=(3, 12))} for _ in range(4)]
    prompts = [[f"{3 * story + scene} a" for scene in range(3)] for story in range(4)]
    expected = values(prompt_ranks(Vectors(), features, prompts))
    monkeypatch.setattr(ranking, "_BLOCK", 5)
    assert values(prompt_ranks(Vectors(), features, prompts)) == expected
    assert 0 < expected["prompt_auc"] < 1


def test_intervals_cover_the_ranks_of_an_endless_set() -> None:
    draw = np.random.default_rng(5)

    def noisy(count: int) -> tuple[list[Features], list[list[str]]]:
        axes = draw.integers(0, 12, (count, 2))
        vectors = 1.5 * np.eye(12)[axes] + draw.normal(size=(count, 2, 12))
        # What is hard about a story is hard about both of its scenes.
        vectors += draw.normal(size=(count, 1, 12))
        prompts = [[f"{axis} a" for axis in pair] for pair in axes]
        # All prompts are candidates in every set.
        return [{"v": each} for each in vectors], prompts

    truth = values(prompt_ranks(Vectors(), *noisy(1500)))
    covered = dict.fromkeys(truth, 0)
    for _ in range(200):
        tallies = prompt_ranks(Vectors(), *noisy(20))
        for name, tally in tallies.items():
            figure = figure_of(tally)
            covered[name] += figure.low <= truth[name] <= figure.high
    assert 0.3 < truth["prompt_recall_1"] < 0.7
    # 200 trials of 95 % are within 4 points in 99 of 100 cases.
    assert all(count / 200 == pytest.approx(0.95, abs=0.04) for count in covered.values()), covered


def test_scenes_and_their_prompts_are_ranked_as_similar_as_they_are() -> None:
    draw = np.random.default_rng(6)
    features: list[Features] = [{"v": draw.normal(size=(2, 12))} for _ in range(6)]
    stacked_ND = np.concatenate([each["v"] for each in features])
    order_NN = np.argsort(-cosines(stacked_ND, stacked_ND), axis=1)
    # The first of the order is the scene itself.
    nearest_N = order_NN[:, 1]
    expected = np.mean(nearest_N // 2 == np.arange(12) // 2)
    assert values(scene_ranks(Vectors(), features))["scene_recall_1"] == pytest.approx(expected)
