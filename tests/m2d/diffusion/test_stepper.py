"""A latent frame that is kept must carry, at every step, the noise that the sampler's own latents carry.

Every test runs with the noise levels of CogVideoX-5B and of CogVideoX-2B.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from m2d.diffusion.schedulers import SCHEDULERS, scheduler_from_config, set_timesteps
from m2d.diffusion.stepper import SceneStepper
from m2d.diffusion.velocity import VelocitySchedule

SHAPE = (1, 1, 3, 64, 64)
X0 = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
# Schedulers with sigmas put 1/4096 where alpha is 0, so their latents start without that part of the signal.
LOST_AT_THE_START = X0.abs().max().item() / 4096
# Values of a few units in float32; Euler subtracts noise of 4096 times the signal: 4096 * eps = 5e-4.
PATH_TOLERANCE = {
    "ddim": 1e-5,
    "dpm++": LOST_AT_THE_START + 1e-5,
    "unipc": LOST_AT_THE_START + 1e-5,
    "euler": LOST_AT_THE_START + 5e-4,
}


@pytest.fixture(params=[4, 30, 61])
def num_inference_steps(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def prepared(config: dict[str, Any], name: str, num_inference_steps: int) -> Any:
    scheduler = scheduler_from_config(config, name)
    set_timesteps(scheduler, num_inference_steps)
    return scheduler


def perfect_velocity(schedule: VelocitySchedule, input_BFCHW: Tensor, timestep: int) -> Tensor:
    """The velocity of a model that knows that the clean latents are X0."""
    alpha, sigma = schedule.alpha_T[timestep].double(), schedule.sigma_T[timestep].double()
    return ((alpha * input_BFCHW.double() - X0.double()) / sigma).float()


def perfect_run(scheduler: Any, stepper: SceneStepper) -> Iterator[tuple[int, int, Tensor]]:
    """Index, timestep and latents before every step of a run whose every prediction is right."""
    schedule = VelocitySchedule.from_scheduler(scheduler)
    latents = stepper.initial(SHAPE, device="cpu")
    for index, timestep in enumerate(scheduler.timesteps.long().tolist()):
        yield index, timestep, latents
        velocity = perfect_velocity(schedule, stepper.model_input(latents, index=index), timestep)
        latents = stepper.step(velocity, latents, index=index)


@pytest.mark.parametrize("name", PATH_TOLERANCE)
def test_noised_latents_lie_on_the_path_of_a_perfect_prediction(scheduler_config, name, num_inference_steps):
    scheduler = prepared(scheduler_config, name, num_inference_steps)
    stepper = SceneStepper(scheduler, seed=1, scene=0)
    noise = stepper.noise(SHAPE, device="cpu")
    for index, _, latents in perfect_run(scheduler, stepper):
        torch.testing.assert_close(
            stepper.model_input(stepper.noised(X0, noise, index=index), index=index),
            stepper.model_input(latents, index=index),
            rtol=0,
            atol=PATH_TOLERANCE[name],
        )


def test_noised_latents_have_the_spread_of_the_stochastic_schedulers_path(
    scheduler_config, num_inference_steps
):
    scheduler = prepared(scheduler_config, "dpm", num_inference_steps)
    stepper = SceneStepper(scheduler, seed=1, scene=0)
    noise = stepper.noise(SHAPE, device="cpu")
    for index, _, latents in perfect_run(scheduler, stepper):
        signal = stepper.noised(X0, torch.zeros(SHAPE), index=index)
        added, found = stepper.noised(X0, noise, index=index) - signal, latents - signal
        # 12288 values estimate a spread to 0.64 % and a correlation to 0.9 %; four times that.
        assert (found.std() / added.std()).item() == pytest.approx(1.0, abs=0.026)
        assert ((found / added.std()) * X0).mean().item() == pytest.approx(0.0, abs=0.036)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_model_is_given_the_noise_level_it_was_trained_with(scheduler_config, name, num_inference_steps):
    scheduler = prepared(scheduler_config, name, num_inference_steps)
    stepper = SceneStepper(scheduler, seed=1, scene=0)
    noise = stepper.noise(SHAPE, device="cpu")
    trained = VelocitySchedule.from_scheduler(scheduler_from_config(scheduler_config))
    for index, timestep, _ in perfect_run(scheduler, stepper):
        seen = stepper.model_input(stepper.noised(X0, noise, index=index), index=index)
        expected = trained.add_noise(X0, noise, torch.tensor([timestep]))
        atol = LOST_AT_THE_START if timestep == 999 else 1e-5
        torch.testing.assert_close(seen, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_after_the_last_step_nothing_is_added(scheduler_config, name):
    stepper = SceneStepper(prepared(scheduler_config, name, 4), seed=1, scene=0)
    assert torch.equal(stepper.noised(X0, stepper.noise(SHAPE, device="cpu"), index=4), X0)
