"""v-prediction algebra against the paper's definitions and against diffusers."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler

from m2d.diffusion.schedulers import SchedulerError
from m2d.diffusion.velocity import VelocitySchedule

# One rounding per multiplication and one per addition, of values of a few units.
FP32 = 1e-6


def cogvideox_scheduler(snr_shift_scale: float) -> CogVideoXDDIMScheduler:
    return CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        snr_shift_scale=snr_shift_scale,
    )


@pytest.fixture(params=[1.0, 3.0])
def scheduler(request: pytest.FixtureRequest) -> CogVideoXDDIMScheduler:
    return cogvideox_scheduler(request.param)


@pytest.fixture
def schedule(scheduler: CogVideoXDDIMScheduler) -> VelocitySchedule:
    return VelocitySchedule.from_scheduler(scheduler)


@pytest.fixture
def x0_and_noise() -> tuple[torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    shape = (4, 3, 2, 2, 2)
    return torch.randn(shape, generator=stream), torch.randn(shape, generator=stream)


def test_velocity_and_noisy_latents_give_back_x0_at_every_noise_level(schedule, x0_and_noise):
    x0, noise = x0_and_noise
    for timesteps in torch.arange(1000).reshape(-1, 4):
        noisy = schedule.add_noise(x0, noise, timesteps)
        velocity = schedule.velocity(x0, noise, timesteps)
        torch.testing.assert_close(schedule.x0(noisy, velocity, timesteps), x0, rtol=0, atol=3 * FP32)


def test_noisy_latents_and_velocity_equal_those_of_diffusers(scheduler, schedule, x0_and_noise):
    x0, noise = x0_and_noise
    timesteps = torch.tensor([0, 17, 500, 999])
    noisy = scheduler.add_noise(x0, noise, timesteps)
    velocity = scheduler.get_velocity(x0, noise, timesteps)
    # diffusers takes 1 - alphas_cumprod in float32, which near the clean end keeps 4 digits of it.
    torch.testing.assert_close(schedule.add_noise(x0, noise, timesteps), noisy, rtol=0, atol=1e-5)
    torch.testing.assert_close(schedule.velocity(x0, noise, timesteps), velocity, rtol=0, atol=1e-5)


def test_the_last_timestep_is_pure_noise_and_its_velocity_is_minus_x0(schedule, x0_and_noise):
    x0, noise = x0_and_noise
    last = torch.full((4,), 999)
    assert torch.equal(schedule.add_noise(x0, noise, last), noise)
    assert torch.equal(schedule.velocity(x0, noise, last), -x0)


def test_snr_shift_makes_every_timestep_between_the_ends_noisier():
    plain = VelocitySchedule.from_scheduler(cogvideox_scheduler(1.0))
    shifted = VelocitySchedule.from_scheduler(cogvideox_scheduler(3.0))
    assert (shifted.sigma_T[1:-1] > plain.sigma_T[1:-1]).all()


def test_each_frame_can_have_its_own_timestep(schedule, x0_and_noise):
    x0, noise = x0_and_noise
    timesteps = torch.randint(0, 1000, (4, 3), generator=torch.Generator().manual_seed(1))
    noisy = schedule.add_noise(x0, noise, timesteps)
    for frame in range(3):
        alone = schedule.add_noise(x0[:, frame], noise[:, frame], timesteps[:, frame])
        assert torch.equal(noisy[:, frame], alone)


def test_timesteps_that_do_not_fit_the_latents_are_refused(schedule, x0_and_noise):
    x0, noise = x0_and_noise
    with pytest.raises(
        ValueError, match=r"timesteps of shape \(2,\) are not a prefix of .*\(4, 3, 2, 2, 2\)"
    ):
        schedule.add_noise(x0, noise, torch.zeros(2, dtype=torch.long))


def test_a_scheduler_that_predicts_noise_is_refused():
    with pytest.raises(SchedulerError, match=r"DDIMScheduler.prediction_type: got 'epsilon'"):
        VelocitySchedule.from_scheduler(DDIMScheduler())
