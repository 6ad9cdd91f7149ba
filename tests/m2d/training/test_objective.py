from __future__ import annotations

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.layout import SceneLayout
from m2d.training.objective import TrainingBatch, masked_loss, velocity_errors

SCHEDULE = VelocitySchedule.from_scheduler(
    CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
)
LAYOUT = SceneLayout.build("mask2dit", text_tokens=[4] * 3, latent_frames=[2] * 3, tokens_per_frame=4)


class Recorder:
    """Predicts zero and keeps what it saw."""

    def __call__(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor, *, layout: SceneLayout
    ) -> Tensor:
        del prompt_embeds_BLD, layout
        self.latents, self.timesteps = latents_BFCHW, timesteps_BN
        return torch.zeros_like(latents_BFCHW)


@pytest.fixture
def batch() -> TrainingBatch:
    draw = torch.Generator().manual_seed(0)
    return TrainingBatch(
        latents_BFCHW=torch.randn(2, 6, 4, 4, 4, generator=draw),
        noise_BFCHW=torch.randn(2, 6, 4, 4, 4, generator=draw),
        prompt_embeds_BLD=torch.randn(2, 12, 8, generator=draw),
        timesteps_BN=torch.tensor([[0, 0, 700], [300, 300, 300]]),
        is_target_BN=torch.tensor([[False, False, True], [True, True, True]]),
        has_image_BN=torch.zeros(2, 3, dtype=torch.bool),
    )


def test_context_scenes_enter_clean_and_targets_noised(batch: TrainingBatch) -> None:
    model = Recorder()
    velocity_errors(model, batch, schedule=SCHEDULE, layout=LAYOUT)
    assert torch.equal(model.latents[0, :4], batch.latents_BFCHW[0, :4])
    alpha, sigma = float(SCHEDULE.alpha_T[700]), float(SCHEDULE.sigma_T[700])
    expected = alpha * batch.latents_BFCHW[0, 4:] + sigma * batch.noise_BFCHW[0, 4:]
    torch.testing.assert_close(model.latents[0, 4:], expected)
    assert torch.equal(model.timesteps, batch.timesteps_BN)


def test_an_error_is_the_mean_square_of_its_scenes_velocity(batch: TrainingBatch) -> None:
    errors_BN = velocity_errors(Recorder(), batch, schedule=SCHEDULE, layout=LAYOUT)
    alpha, sigma = float(SCHEDULE.alpha_T[300]), float(SCHEDULE.sigma_T[300])
    velocity = alpha * batch.noise_BFCHW[1, 2:4] - sigma * batch.latents_BFCHW[1, 2:4]
    torch.testing.assert_close(errors_BN[1, 1], velocity.square().mean())


def test_a_given_first_frame_enters_clean_and_does_not_count(batch: TrainingBatch) -> None:
    model = Recorder()
    without_BN = velocity_errors(Recorder(), batch, schedule=SCHEDULE, layout=LAYOUT)
    has_image_BN = torch.tensor([[False, False, True], [False, True, False]])
    batch = batch._replace(has_image_BN=has_image_BN)
    errors_BN = velocity_errors(model, batch, schedule=SCHEDULE, layout=LAYOUT)
    assert torch.equal(model.latents[1, 2], batch.latents_BFCHW[1, 2])
    alpha, sigma = float(SCHEDULE.alpha_T[300]), float(SCHEDULE.sigma_T[300])
    torch.testing.assert_close(
        model.latents[1, 3], alpha * batch.latents_BFCHW[1, 3] + sigma * batch.noise_BFCHW[1, 3]
    )
    velocity = alpha * batch.noise_BFCHW[1, 3] - sigma * batch.latents_BFCHW[1, 3]
    torch.testing.assert_close(errors_BN[1, 1], velocity.square().mean())
    assert torch.equal(errors_BN[~has_image_BN], without_BN[~has_image_BN])


def test_scene_guidance_grows_what_other_scenes_change(batch: TrainingBatch) -> None:
    weight = torch.tensor(0.0, requires_grad=True)
    apart_BFCHW = torch.randn_like(batch.latents_BFCHW)

    def model(latents_BFCHW: Tensor, *_: Tensor, layout: SceneLayout) -> Tensor:
        sees_others = layout.mask == LAYOUT.mask
        return apart_BFCHW + weight * torch.ones_like(latents_BFCHW) if sees_others else apart_BFCHW

    def best(guidance: float) -> float:
        """Follow the gradient to the weight that the loss asks for; the loss is a parabola."""
        with torch.no_grad():
            weight.zero_()
        for _ in range(200):
            errors_BN = velocity_errors(
                model, batch, schedule=SCHEDULE, layout=LAYOUT, scene_guidance=guidance
            )
            (gradient,) = torch.autograd.grad(masked_loss(errors_BN, batch.is_target_BN), weight)
            with torch.no_grad():
                weight.sub_(0.2 * gradient)
        return weight.item()

    without = best(0.0)
    assert best(0.5) == pytest.approx(2 * without, rel=1e-3)
    assert best(0.2) == pytest.approx(1.25 * without, rel=1e-3)


def test_the_loss_ignores_context_scenes(batch: TrainingBatch) -> None:
    errors_BN = torch.tensor([[100.0, 100.0, 1.0], [2.0, 3.0, 4.0]])
    assert float(masked_loss(errors_BN, batch.is_target_BN)) == pytest.approx(10 / 4)
    context_only = batch._replace(is_target_BN=torch.ones(2, 3, dtype=torch.bool))
    assert float(masked_loss(errors_BN, context_only.is_target_BN)) == pytest.approx(210 / 6)
