"""The decoder learns from what a transformer makes, and from nothing else: latents stay what they were."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from m2d.errors import InputError
from m2d.puppet.story import sample_story
from m2d.puppet.training import vae_decoder as training
from m2d.puppet.training.vae_decoder import Predictor, VaeDecoderRecipe, vae_decoder_fit
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.puppet.training.tiny_helpers import DECODER, loss_left


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("decoder") / "model"))


def recipe_of(*models: str, **changes: Any) -> VaeDecoderRecipe:
    return VaeDecoderRecipe.model_validate(DECODER | {"models": list(models)} | changes)


def test_a_step_is_always_the_same_and_moves_the_decoder_alone(model: str, tmp_path: Path) -> None:
    fit = vae_decoder_fit(recipe_of(model), tmp_path)
    loss = fit.loss_at(2)
    assert fit.loss_at(2).item() == loss.item()
    assert fit.loss_at(3).item() != loss.item()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    moved = {
        name.partition(".")[0] for name, weight in fit.model.named_parameters() if weight.grad is not None
    }
    assert moved == {"decoder"}


def test_latents_are_those_of_the_model_however_far_the_decoder_has_moved(model: str, tmp_path: Path) -> None:
    recipe = recipe_of(model, encoded_share=1.0)
    fit = vae_decoder_fit(recipe, tmp_path)
    before = fit.loss_at(0).item()
    with torch.no_grad():
        for name, weight in fit.model.named_parameters():
            weight.mul_(0.0 if name.startswith("encoder") else 1.0)
    # The encoder that is trained beside it, and frozen, is not the one that latents come from.
    assert fit.loss_at(0).item() == before


def test_training_lowers_the_loss(model: str, tmp_path: Path) -> None:
    assert loss_left(vae_decoder_fit(recipe_of(model), tmp_path), lr=3e-3, steps=12) < 0.8


def test_what_a_perfect_transformer_predicts_are_the_latents_themselves(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Predictor.load(model)
    latents_NFCHW = torch.randn(3, 5, 4, 8, 8)
    asked = []

    def perfect(
        noisy: torch.Tensor, embeds: torch.Tensor, timesteps: torch.Tensor, **_: object
    ) -> torch.Tensor:
        asked.append((embeds, timesteps))
        x0 = latents_NFCHW.flatten(0, 1)[None]
        return maker.schedule.velocity_of(noisy, x0, torch.full(x0.shape[:2], 300))

    monkeypatch.setattr(maker.transformer, "forward", perfect)
    story = sample_story(seed=1, index=0, num_scenes=3)
    predicted = maker.predicted(latents_NFCHW, story, timestep=300, draw=torch.Generator().manual_seed(1))
    assert torch.allclose(predicted, latents_NFCHW, atol=1e-5)
    ((embeds_BLD, timesteps_BN),) = asked
    assert embeds_BLD.shape[1] == 3 * maker.source.geometry.max_text_tokens
    assert timesteps_BN.tolist() == [[300, 300, 300]]


def test_windows_of_latents_and_of_frames_show_the_same_place(model: str) -> None:
    recipe = recipe_of(model, crops_per_scene=50)
    # Every pixel tells where it is, and every latent of four by four pixels, too.
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    places_CHW = torch.stack([row, column]).float()
    frames = places_CHW.expand(1, 9, 2, 32, 32)
    latents = places_CHW[:, ::4, ::4].expand(1, 5, 2, 8, 8)
    actors = torch.zeros(1, 9, 1, 32, 32)
    actors[..., 28:, 28:] = 1
    made = training.StoryLatents(frames, actors, latents)
    draw = torch.Generator().manual_seed(0)
    latents_BFCHW, frames_BPCHW = training._cut(made, recipe, 4, draw=draw)
    assert latents_BFCHW.shape == (50, 5, 2, 4, 4)
    assert frames_BPCHW.shape == (50, 9, 2, 16, 16)
    assert torch.equal(latents_BFCHW[:, 0], frames_BPCHW[:, 0, :, ::4, ::4])
    corners = [tuple(frame[0, :, 0, 0].int().tolist()) for frame in frames_BPCHW]
    assert corners.count((16, 16)) > 25
    assert len(set(corners)) > 5


def test_figures_tell_encoded_latents_and_made_ones_apart(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "_NUM_HELD_OUT", 1)
    fit = vae_decoder_fit(recipe_of(model), tmp_path)
    figures = fit.evaluate(fit.model)
    assert figures.keys() == {
        f"model.{kind}.{name}" for kind in ("encoded", "made") for name in ("psnr_db", "psnr_actors_db")
    }
    assert figures["model.encoded.psnr_db"] != figures["model.made.psnr_db"]
    assert fit.evaluate(fit.model) == figures


def test_models_of_two_codecs_are_refused(model: str, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (weights,) = (other / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name] + 1}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"other has another VAE than .*model; train them one by one"):
        vae_decoder_fit(recipe_of(model, str(other)), tmp_path)
    vae_decoder_fit(recipe_of(model, model), tmp_path)


@pytest.mark.parametrize("crop", [18, 64])
def test_a_crop_that_does_not_fit_is_refused(model: str, tmp_path: Path, crop: int) -> None:
    with pytest.raises(InputError, match=f"crop: got {crop}; use a multiple of 4, .* up to 32"):
        vae_decoder_fit(recipe_of(model, crop=crop), tmp_path)


@pytest.mark.parametrize("timesteps", [[450, 20], [0, 1000]])
def test_timesteps_that_are_none_are_refused(model: str, timesteps: list[int]) -> None:
    with pytest.raises(ValidationError, match=f"timesteps: got {timesteps[0]} to {timesteps[1]}"):
        recipe_of(model, timesteps=timesteps)
