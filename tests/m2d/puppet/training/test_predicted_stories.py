"""Stories with the latents that a transformer predicts for them, from memory or from their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.puppet.story import sample_story
from m2d.puppet.training.predicted_stories import PredictedStories, Predictor
from tests.m2d.model.tiny_model import build_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("predicted") / "model"))


@pytest.fixture(scope="module")
def stories(model: str) -> PredictedStories:
    vae = load_vae(resolve_model(model), device="cpu", dtype=torch.float32).module
    return PredictedStories(predictor=Predictor.load(model), vae=vae, seed=1, timesteps=(20, 450))


def test_a_perfect_transformer_predicts_the_latents_themselves(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(model)
    latents_NFCHW = torch.randn(3, 5, 4, 8, 8)
    asked = []

    def perfect(
        noisy: torch.Tensor, embeds: torch.Tensor, timesteps: torch.Tensor, **_: object
    ) -> torch.Tensor:
        asked.append((embeds, timesteps))
        x0 = latents_NFCHW.flatten(0, 1)[None]
        return predictor.schedule.velocity_of(noisy, x0, torch.full(x0.shape[:2], 300))

    monkeypatch.setattr(predictor.transformer, "forward", perfect)
    story = sample_story(seed=1, index=0, num_scenes=3)
    draw = torch.Generator().manual_seed(1)
    predicted = predictor.predicted(latents_NFCHW, story, timestep=300, draw=draw)
    assert torch.allclose(predicted, latents_NFCHW, atol=1e-5)
    ((embeds_BLD, timesteps_BN),) = asked
    assert embeds_BLD.shape[1] == 3 * predictor.source.geometry.max_text_tokens
    assert timesteps_BN.tolist() == [[300, 300, 300]]


def test_a_kept_story_is_read_back_to_half_precision(stories: PredictedStories, tmp_path: Path) -> None:
    kept = replace(stories, folder=tmp_path / "kept")
    made = stories.get(4)
    kept.get(4)
    read = kept.get(4)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["00004.safetensors"]
    # Half a level of 0..255 in -1..1, and half precision of latents up to 8.
    assert (read.frames_NPCHW - made.frames_NPCHW).abs().max() <= 1 / 255 + 1e-6
    assert (read.predicted_NFCHW - made.predicted_NFCHW).abs().max() <= 4e-3
    assert torch.equal(read.actors_NP1HW, made.actors_NP1HW)
    assert torch.equal(read.outlines_NP1HW, made.outlines_NP1HW)


def test_given_latents_are_not_encoded_again(stories: PredictedStories) -> None:
    made = stories.get(0)
    again = stories.make(0, encoded_NFCHW=made.encoded_NFCHW + 1)
    assert torch.equal(again.encoded_NFCHW, made.encoded_NFCHW + 1)
    assert not torch.equal(again.predicted_NFCHW, made.predicted_NFCHW)
