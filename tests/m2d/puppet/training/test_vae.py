from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.puppet.clips import actor_boxes, draw_clips, render_batch
from m2d.puppet.training import vae as training
from m2d.puppet.training.vae import (
    VaeRecipe,
    build_vae,
    latent_std,
    reconstruction_psnr,
    vae_fit,
)
from tests.m2d.puppet.training.tiny_helpers import vae_recipe

RECIPE = vae_recipe()


@pytest.mark.parametrize(
    ("step", "num_frames", "side"),
    [(0, 1, 16), (2, 1, 16), (3, 9, 16), (4, 9, 32), (5, 9, 32)],
    ids=["first single", "last single", "crop", "first whole", "last whole"],
)
def test_single_frames_come_before_crops_before_whole_clips(step: int, num_frames: int, side: int) -> None:
    frames_BCPHW, weights_B1PHW = training._batch(RECIPE, step)
    count = max(RECIPE.batch_pixels // (num_frames * side * side), 1)
    assert frames_BCPHW.shape == (count, 3, num_frames, side, side)
    assert weights_B1PHW.shape == (count, 1, num_frames, side, side)


def test_the_same_step_trains_on_the_same_pixels() -> None:
    for step in (0, 3):
        first, again = training._batch(RECIPE, step), training._batch(RECIPE, step)
        assert torch.equal(first[0], again[0])
        assert torch.equal(first[1], again[1])
    assert not torch.equal(training._batch(RECIPE, 0)[0], training._batch(RECIPE, 1)[0])


def test_frames_are_in_the_range_that_the_codec_works_in() -> None:
    frames_BCPHW, _ = training._batch(RECIPE, 4)
    assert -1.0 <= float(frames_BCPHW.min()) < -0.2
    assert 0.2 < float(frames_BCPHW.max()) <= 1.0


def test_most_crops_show_an_actor() -> None:
    recipe = vae_recipe(batch_pixels=64 * 256, steps=100)
    _, weights_B1PHW = training._batch(recipe, 0)
    shows_actor_B = weights_B1PHW.amax((1, 2, 3, 4)) >= 1 + recipe.actor_weight
    assert float(shows_actor_B.float().mean()) > 0.7


@pytest.mark.parametrize("changes", [{}, {"actor_weight": 0.0}, {"motion_weight": 0.0}])
def test_weights_are_one_plus_actor_plus_motion(changes: dict[str, float]) -> None:
    recipe = vae_recipe(**changes)
    _, weights_B1PHW = training._batch(recipe, 4)
    actor, motion = recipe.actor_weight, recipe.motion_weight
    allowed = {1.0, 1 + actor, 1 + motion, 1 + actor + motion}
    assert set(weights_B1PHW.unique().tolist()) <= allowed
    assert weights_B1PHW.amax() == max(allowed)


def test_motion_marks_the_frames_before_and_after_a_change() -> None:
    frames_BPCHW = torch.zeros(1, 4, 3, 2, 2)
    frames_BPCHW[0, 2:, :, 0, 1] = 0.5
    moved_BP1HW = training._motion(frames_BPCHW)
    assert moved_BP1HW[0, :, 0, 0, 1].tolist() == [0, 1, 1, 0]
    assert int(moved_BP1HW.sum()) == 2


def test_a_single_frame_has_no_motion() -> None:
    assert not training._motion(torch.rand(2, 1, 3, 4, 4)).any()


def test_the_loss_reaches_every_weight(tmp_path: Path) -> None:
    fit = vae_fit(RECIPE, tmp_path)
    fit.loss_at(4).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    without = [name for name, weight in fit.model.named_parameters() if weight.grad is None]
    assert not without


def test_the_loss_of_a_step_is_always_the_same(tmp_path: Path) -> None:
    fit = vae_fit(RECIPE, tmp_path)
    assert fit.loss_at(3).item() == fit.loss_at(3).item()


def test_evaluation_measures_all_pixels_and_those_in_the_actors_boxes() -> None:
    vae = build_vae(RECIPE).eval()
    batch = render_batch(draw_clips(seed=3, step=0, count=10), num_frames=9, height=32, width=32)
    psnr = reconstruction_psnr(vae, batch)
    assert psnr.keys() == {"psnr_db", "psnr_actors_db"}
    decoded = [_round_trip(vae, clip_PCHW) for clip_PCHW in batch.frames_BPCHW]
    squares = (torch.stack(decoded) - batch.frames_BPCHW).square()
    # The figure is rounded to a thousandth of a decibel.
    assert psnr["psnr_db"] == pytest.approx(-10 * float(squares.mean().log10()), abs=2e-3)
    boxes = actor_boxes(batch.actors_BP1HW).bool().expand_as(squares)
    assert psnr["psnr_actors_db"] == pytest.approx(-10 * float(squares[boxes].mean().log10()), abs=2e-3)


@torch.no_grad()
def _round_trip(vae: torch.nn.Module, frames_PCHW: Tensor) -> Tensor:
    frames_1CPHW = frames_PCHW.transpose(0, 1)[None] * 2 - 1
    decoded = vae.decode(vae.encode(frames_1CPHW).latent_dist.mean).sample
    return ((decoded[0].transpose(0, 1).clamp(-1, 1) + 1) / 2).float()


def test_the_scaling_factor_is_measured_on_held_out_latents() -> None:
    vae = build_vae(RECIPE).eval()
    std = latent_std(vae, RECIPE)
    assert std > 0
    assert std == latent_std(vae, RECIPE)


def test_the_geometry_follows_the_recipe() -> None:
    recipe: VaeRecipe = vae_recipe(
        block_out_channels=[8, 16], temporal_compression_ratio=2, latent_channels=6
    )
    vae = build_vae(recipe)
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, 5, 32, 32)).latent_dist.mean
    assert latents.shape == (1, 6, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": 5}, r"num_frames: 5 is not 8k\+1; use 1 or 9"),
        ({"block_out_channels": [8, 12]}, "block_out_channels: 12 is not a multiple of 8"),
        ({"height": 30}, "height: 30 is not a multiple of 4, the pixels per latent"),
        ({"crop": 18}, "crop: 18 is not a multiple of 4"),
    ],
)
def test_sizes_that_the_codec_cannot_do_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        vae_recipe(**changes)


def test_a_decoder_can_be_trained_further_from_a_model_while_its_latents_stay(tmp_path: Path) -> None:
    shipped = load_vae(resolve_model("builtin:puppet"), device="cpu", dtype=torch.float32).module
    config = shipped.config
    recipe = vae_recipe(
        block_out_channels=tuple(config.block_out_channels),
        latent_channels=config.latent_channels,
        temporal_compression_ratio=config.temporal_compression_ratio,
        init="builtin:puppet",
        freeze_encoder=True,
    )
    fit = training.vae_fit(recipe, tmp_path)
    started = fit.model.state_dict()
    assert all(torch.equal(started[name], weight) for name, weight in shipped.state_dict().items())
    fit.loss_at(0).backward()
    trained = {name.split(".")[0] for name, weight in fit.model.named_parameters() if weight.grad is not None}
    assert trained == {"decoder"}
