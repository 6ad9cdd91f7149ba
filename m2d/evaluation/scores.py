"""From measurements to the rows and figures of a report; decodes nothing.

S stories, N scenes of one story.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from m2d.evaluation.consistency import StoryScores, cosines, score_story, tally_means, tally_scores
from m2d.evaluation.embedder import Embedder, Features
from m2d.evaluation.frame_measures import DRIFTS, change_since_first, count_cuts, drift
from m2d.evaluation.intervals import Figure, Tally, figure_of
from m2d.evaluation.meanings import MEANINGS
from m2d.evaluation.measure import SceneMeasures, StoryMeasures
from m2d.evaluation.ranking import prompt_ranks, scene_ranks
from m2d.evaluation.stories import VideoStory


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneRow:
    """One scene of a report; NaN where something is not measured.

    Attributes:
        number: From 1.
        values: By names of `MEANINGS`, and `contrast_change` and so on: the change since scene 1, in percent.
        picture: Frames of the scene side by side, WebP.
    """

    story: str
    number: int
    prompt: str
    values: Mapping[str, float]
    picture: bytes


class Figures(NamedTuple):
    """All figures that were measured, in the order of `MEANINGS`, and the number of stories behind each."""

    values: dict[str, Figure]
    num_stories: dict[str, int]


def features_of(measures: StoryMeasures) -> Features:
    """Return per extractor the vectors of a story's scenes, (N, D)."""
    names = measures.scenes[0].features
    return {
        name: np.stack([scene.features[name] for scene in measures.scenes]).astype(np.float64)
        for name in names
    }


def story_scores(story: VideoStory, measures: StoryMeasures, embedder: Embedder | None) -> StoryScores:
    """Return the consistency scores of a story; NaN without an embedder."""
    if embedder is None:
        unknown_N = np.full(len(story.scenes), np.nan)
        return StoryScores(visual_N=unknown_N, semantic_N=unknown_N, cross_talk_N=unknown_N)
    features = features_of(measures)
    match_NN = None if story.prompts is None else embedder.match(features, story.prompts)
    embeddings_ND = embedder.embeddings(features)
    return score_story(cosines(embeddings_ND, embeddings_ND), match_NN)


def scene_rows(story: VideoStory, measures: StoryMeasures, scores: StoryScores) -> list[SceneRow]:
    """Return the rows of a story."""
    changes = {
        f"{name}_change": change_since_first([getattr(scene.statistics, name) for scene in measures.scenes])
        for name in DRIFTS
    }
    return [
        SceneRow(
            story=story.name,
            number=number + 1,
            prompt=story.prompts[number] if story.prompts else "",
            values={
                "visual": float(scores.visual_N[number]),
                "semantic": float(scores.semantic_N[number]),
                "cross_talk": float(scores.cross_talk_N[number]),
                "colour_jump": scene.jump,
                "lpips_within": scene.within,
                "lpips_across": scene.across,
                "motion": scene.statistics.motion,
                "smoothness": scene.statistics.smoothness,
                **{name: values[number] for name, values in changes.items()},
            },
            picture=scene.picture,
        )
        for number, scene in enumerate(measures.scenes)
    ]


def figures(
    stories: Sequence[tuple[VideoStory, StoryMeasures]],
    scores: Sequence[StoryScores],
    embedder: Embedder | None,
) -> Figures:
    """Return all figures that were measured, with intervals over stories."""
    tallies: dict[str, Tally] = dict(tally_scores(scores))
    all_measures = [measures for _, measures in stories]
    means: dict[str, Callable[[SceneMeasures], float]] = {
        "colour_jump": lambda scene: scene.jump,
        "lpips_within": lambda scene: scene.within,
        "lpips_across": lambda scene: scene.across,
        "motion": lambda scene: scene.statistics.motion,
        "smoothness": lambda scene: scene.statistics.smoothness,
    }
    for name, value in means.items():
        tallies[name] = tally_means([_mean([value(scene) for scene in each.scenes]) for each in all_measures])
    for name in DRIFTS:
        values = [drift([getattr(scene.statistics, name) for scene in each.scenes]) for each in all_measures]
        tallies[f"drift_{name}"] = tally_means(values)
    tallies["cut_accuracy"] = tally_means([_cut_accuracy(*each) for each in stories])
    if embedder is not None:
        features = [features_of(measures) for measures in all_measures]
        tallies |= embedder.truth(
            [(each, story.prompts) for each, (story, _) in zip(features, stories, strict=True)]
        )
        tallies |= scene_ranks(embedder, features)
        prompts = [story.prompts for story, _ in stories if story.prompts]
        if len(prompts) == len(stories):
            tallies |= prompt_ranks(embedder, features, prompts)
    found = {name: tally for name, tally in tallies.items() if tally.counts_S.any()}
    shown = sorted(name for name in found if name not in MEANINGS)
    names = [name for name in (*MEANINGS, *shown) if name in found]
    return Figures(
        values={name: _figure(found[name]) for name in names},
        num_stories={name: int((found[name].counts_S > 0).sum()) for name in names},
    )


def _figure(tally: Tally) -> Figure:
    """Return the figure of a tally; one story says nothing about others, so it has no interval."""
    figure = figure_of(tally)
    return figure if (tally.counts_S > 0).sum() > 1 else replace(figure, low=math.nan, high=math.nan)


def _cut_accuracy(story: VideoStory, measures: StoryMeasures) -> float:
    if measures.cuts is None:
        return math.nan
    return count_cuts([story.scenes[number].start for number in story.cuts], measures.cuts).accuracy


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan
