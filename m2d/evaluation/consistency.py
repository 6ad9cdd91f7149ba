"""The paper's consistency scores of a story, from the similarities of its scenes and prompts.

The paper prints Visual, Semantic and Sequence Consistency (Table 1) without an equation; its numbers fit
Sequence = (Visual + Semantic) / 2 exactly. Knows no embedder. All scores are in percent.
Shapes: N, M scenes or prompts, D features of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m2d.evaluation.intervals import Tally

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoryScores:
    """Scores of the scenes of one story; NaN where there is nothing to compare.

    Attributes:
        visual_N: Mean similarity of each scene to the story's other scenes.
        semantic_N: How well each scene matches its own prompt.
        cross_talk_N: The same minus the mean over the other scenes' prompts: larger is better, 0 means that a
            scene matches every prompt of the story as well as its own.
    """

    visual_N: Scores
    semantic_N: Scores
    cross_talk_N: Scores


def cosines(first_ND: Scores, second_MD: Scores) -> Scores:
    """Return the cosine of every pair of embeddings, (N, M); that of an embedding of zeros is 0."""
    products_NM: Scores = _unit(first_ND) @ _unit(second_MD).T
    return products_NM


def score_story(similarity_NN: Scores, match_NN: Scores | None) -> StoryScores:
    """Score one story.

    Args:
        similarity_NN: Similarity of every pair of scenes, at most 1.
        match_NN: Row: scene, column: prompt; how well they match, at most 1. None without prompts.
    """
    num_scenes = len(similarity_NN)
    unknown_N = np.full(num_scenes, np.nan)
    visual_N = 100 * _mean_of_others(similarity_NN)
    if match_NN is None:
        return StoryScores(visual_N=visual_N, semantic_N=unknown_N, cross_talk_N=unknown_N)
    semantic_N: Scores = 100 * np.diagonal(match_NN)
    others_N = 100 * _mean_of_others(match_NN)
    return StoryScores(visual_N=visual_N, semantic_N=semantic_N, cross_talk_N=semantic_N - others_N)


def tally_scores(stories: Sequence[StoryScores]) -> dict[str, Tally]:
    """Return the tallies of `visual`, `semantic`, `cross_talk` and `sequence`, one mean per story.

    Every story has the weight of one, however many scenes it has. A story with a single scene has no visual
    score, and so no sequence score.
    """
    means = {
        "visual": [_mean(story.visual_N) for story in stories],
        "semantic": [_mean(story.semantic_N) for story in stories],
        "cross_talk": [_mean(story.cross_talk_N) for story in stories],
    }
    means["sequence"] = [(a + b) / 2 for a, b in zip(means["visual"], means["semantic"], strict=True)]
    return {name: tally_means(values) for name, values in means.items()}


def tally_means(values: Sequence[float]) -> Tally:
    """Return the tally of one value per story; NaN does not count."""
    values_S = np.array(values, dtype=np.float64)
    is_known_S = ~np.isnan(values_S)
    return Tally(amounts_S=np.where(is_known_S, values_S, 0.0), counts_S=is_known_S.astype(np.float64))


def _unit(embeddings_ND: Scores) -> Scores:
    lengths_N1 = np.linalg.norm(embeddings_ND, axis=1, keepdims=True)
    unit_ND: Scores = np.divide(
        embeddings_ND, lengths_N1, where=lengths_N1 > 0, out=np.zeros_like(embeddings_ND)
    )
    return unit_ND


def _mean_of_others(values_NN: Scores) -> Scores:
    """Return the mean of each row's known values without its diagonal element; NaN if there is none."""
    is_other_NN = ~np.eye(len(values_NN), dtype=np.bool_) & ~np.isnan(values_NN)
    sums_N = np.where(is_other_NN, values_NN, 0.0).sum(1)
    counts_N = is_other_NN.sum(1)
    return np.where(counts_N > 0, sums_N / np.maximum(counts_N, 1), np.nan)


def _mean(values_N: Scores) -> float:
    known_N = values_N[~np.isnan(values_N)]
    return float(known_N.mean()) if len(known_N) else float("nan")
