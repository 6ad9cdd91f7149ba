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
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.puppet.training import vae_decoder as training
from m2d.puppet.training.predicted_stories import PredictedStory
from m2d.puppet.training.vae_decoder import VaeDecoderRecipe, vae_decoder_fit
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


def test_training_lowers_the_loss(model: str, tmp_path: Path) -> None:
    assert loss_left(vae_decoder_fit(recipe_of(model), tmp_path), lr=3e-3, steps=12) < 0.8


def test_windows_of_latents_and_of_frames_show_the_same_place(model: str) -> None:
    recipe = recipe_of(model, crops_per_scene=50, latent_frames=1, encoded_share=1.0)
    # The values of a pixel are its row and column, and those of a latent the ones of its first pixel.
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    places_CHW = torch.stack([row, column]).float()
    frames = places_CHW.expand(1, 9, 2, 32, 32)
    latents = places_CHW[:, ::4, ::4].expand(1, 5, 2, 8, 8)
    actors = torch.zeros(1, 9, 1, 32, 32)
    actors[..., 28:, 28:] = 1
    story = PredictedStory(frames, actors, frames[:, :, :1], latents, latents + 100)
    vae = load_vae(resolve_model(model), device="cpu", dtype=torch.float32).module
    crops = training._cut(story, recipe, vae, draw=torch.Generator().manual_seed(0))
    assert crops.latents_BFCHW.shape == (50, 1, 2, 4, 4)
    assert crops.frames_BPCHW.shape == (50, 1, 2, 16, 16)
    assert torch.equal(crops.latents_BFCHW[:, 0], crops.frames_BPCHW[:, 0, :, ::4, ::4])
    assert torch.equal(crops.outlines_BP1HW[:, 0, 0], crops.frames_BPCHW[:, 0, 0])
    corners = [tuple(frame[0, :, 0, 0].int().tolist()) for frame in crops.frames_BPCHW]
    assert corners.count((16, 16)) > 25
    assert len(set(corners)) > 5


def test_without_a_crop_whole_pictures_are_decoded(model: str) -> None:
    predictor = training.Predictor.load(model)
    vae = load_vae(resolve_model(model), device="cpu", dtype=torch.float32).module
    stories = training.PredictedStories(predictor=predictor, vae=vae, seed=1, timesteps=(20, 450))
    story = stories.get(0)
    recipe = recipe_of(model, crop=None, crops_per_scene=1, latent_frames=None, encoded_share=1.0)
    crops = training._cut(story, recipe, vae, draw=torch.Generator().manual_seed(0))
    assert torch.equal(crops.latents_BFCHW, story.encoded_NFCHW)
    assert torch.equal(crops.frames_BPCHW, story.frames_NPCHW)


def test_a_widened_decoder_starts_with_the_same_loss(model: str, tmp_path: Path) -> None:
    narrow = vae_decoder_fit(recipe_of(model), tmp_path)
    wide = vae_decoder_fit(recipe_of(model, block_out_channels=[8, 8, 16]), tmp_path)
    num_weights = [sum(weight.numel() for weight in fit.model.parameters()) for fit in (narrow, wide)]
    assert num_weights[1] > 1.5 * num_weights[0]
    assert wide.loss_at(0).item() == pytest.approx(narrow.loss_at(0).item(), rel=1e-4)


def test_pixels_around_outlines_weigh_more(model: str, tmp_path: Path) -> None:
    plain, weighted = (
        vae_decoder_fit(recipe_of(model, outline_weight=weight), tmp_path).loss_at(0).item()
        for weight in (0.0, 3.0)
    )
    assert plain < weighted < 4 * plain


def test_figures_tell_encoded_latents_and_made_ones_apart(
    model: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "_NUM_HELD_OUT", 1)
    fit = vae_decoder_fit(recipe_of(model), tmp_path)
    figures = fit.evaluate(fit.model)
    assert figures.keys() == {
        f"model.{kind}.{name}"
        for kind in ("encoded", "made")
        for name in ("psnr_db", "psnr_actors_db", "outline_error")
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


def test_an_even_number_of_latent_frames_is_rejected(model: str) -> None:
    with pytest.raises(ValidationError, match="latent_frames: got 4; use an odd number"):
        recipe_of(model, latent_frames=4)
