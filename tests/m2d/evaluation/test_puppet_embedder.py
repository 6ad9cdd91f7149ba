from __future__ import annotations

import numpy as np
import pytest

from m2d.errors import InputError
from m2d.evaluation.consistency import Scores, cosines
from m2d.evaluation.embedder import Features
from m2d.evaluation.intervals import figure_of
from m2d.evaluation.puppet_embedder import PuppetEmbedder, load_puppet_embedder
from m2d.model.pixels import to_pixels
from m2d.puppet.captions import plain_caption
from m2d.puppet.render import render_clips
from m2d.puppet.story import Story, sample_story
from m2d.puppet.story_scores import story_clips

STORIES = [sample_story(seed=91, index=index, num_scenes=3) for index in range(6)]


@pytest.fixture(scope="module")
def embedder() -> PuppetEmbedder:
    return load_puppet_embedder(height=64, width=64)


@pytest.fixture(scope="module")
def drawn(embedder: PuppetEmbedder) -> list[Features]:
    return [features(embedder, story) for story in STORIES]


def features(embedder: PuppetEmbedder, story: Story) -> Features:
    frames_BPCHW = render_clips(story_clips([story]), num_frames=9, height=64, width=64)
    (name, extractor), *_ = embedder.extractors.items()
    vectors = [
        extractor.extract([extractor.prepare(frame) for frame in to_pixels(2 * frames_PCHW - 1)])
        for frames_PCHW in frames_BPCHW
    ]
    return {name: np.stack(vectors).astype(np.float64)}


def similarity(embedder: PuppetEmbedder, each: Features) -> Scores:
    embeddings_ND = embedder.embeddings(each)
    return cosines(embeddings_ND, embeddings_ND)


def prompts(story: Story) -> list[str]:
    return [plain_caption(story, scene) for scene in story.scenes]


def test_a_scene_is_as_similar_to_itself_as_possible(embedder: PuppetEmbedder, drawn: list[Features]) -> None:
    assert np.diagonal(similarity(embedder, drawn[0])) == pytest.approx(1.0)


def test_scenes_of_a_story_are_more_similar_than_those_of_two(
    embedder: PuppetEmbedder, drawn: list[Features]
) -> None:
    first = {name: np.stack([each[name][0] for each in drawn]) for name in drawn[0]}
    within = np.mean([similarity(embedder, each)[0, 1:].mean() for each in drawn])
    across = similarity(embedder, first)[np.triu_indices(len(drawn), k=1)].mean()
    assert within > across + 0.2


def test_drawn_scenes_match_their_own_prompts(embedder: PuppetEmbedder, drawn: list[Features]) -> None:
    for story, each in zip(STORIES, drawn, strict=True):
        match_NN = embedder.match(each, prompts(story))
        assert np.diagonal(match_NN).min() > 0.9
        assert np.diagonal(match_NN).mean() > match_NN.mean()


def test_a_prompt_of_another_world_matches_nothing_that_is_known(
    embedder: PuppetEmbedder, drawn: list[Features]
) -> None:
    assert np.isnan(embedder.match(drawn[0], ["A train leaves."] * 3)).all()


def test_exact_truth_of_drawn_scenes(embedder: PuppetEmbedder, drawn: list[Features]) -> None:
    own = [(each, prompts(story)) for each, story in zip(drawn, STORIES, strict=True)]
    figures = {name: figure_of(tally).value for name, tally in embedder.truth(own).items()}
    assert min(value for name, value in figures.items() if name.startswith("shown.")) > 0.9
    assert figures["unprompted_difference"] < 0.1
    permuted = [(each, [*texts[1:], texts[0]]) for each, texts in own]
    assert figure_of(embedder.truth(permuted)["shown.action"]).value < figures["shown.action"]


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match="frames of 80x64: no attribute classifier reads"):
        load_puppet_embedder(height=64, width=80)
