"""Every scheduler steps through the model's own noise levels, and unsuitable settings are refused."""

from typing import get_args

import pytest
import torch

from m2d.diffusion.schedulers import SCHEDULERS, SchedulerError, scheduler_from_config, set_timesteps
from m2d.recipe.schema import SchedulerName


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_has_the_noise_levels_of_the_model_folder(scheduler_config, name):
    own = scheduler_from_config(scheduler_config)
    scheduler = scheduler_from_config(scheduler_config, name)
    assert type(scheduler).__name__ == SCHEDULERS[name]
    # 1000 float32 multiplications inside diffusers; the last level is 2**-24 where sigma would be infinite.
    torch.testing.assert_close(
        scheduler.alphas_cumprod.double(), own.alphas_cumprod.double(), rtol=1e-4, atol=2**-23
    )


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("num_inference_steps", [1, 2, 25, 30, 50, 61, 999, 1000])
def test_timesteps_start_at_pure_noise_and_never_leave_the_trained_range(
    scheduler_config, name, num_inference_steps
):
    scheduler = scheduler_from_config(scheduler_config, name)
    set_timesteps(scheduler, num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    assert len(timesteps) == len(set(timesteps)) == num_inference_steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert timesteps[0] == 999
    assert timesteps[-1] >= 0
    if hasattr(scheduler, "sigmas"):
        assert len(scheduler.sigmas) == num_inference_steps + 1
        assert scheduler.sigmas[-1] == 0


@pytest.mark.parametrize("num_inference_steps", [0, -3, 1001])
def test_a_number_of_steps_out_of_range_is_refused(scheduler_config, num_inference_steps):
    scheduler = scheduler_from_config(scheduler_config)
    with pytest.raises(SchedulerError, match=rf"got {num_inference_steps}, allowed: 1 to 1000"):
        set_timesteps(scheduler, num_inference_steps)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("prediction_type", "epsilon", "prediction_type: got 'epsilon', must be 'v_prediction'"),
        ("rescale_betas_zero_snr", False, "rescale_betas_zero_snr: got False, must be True"),
        ("timestep_spacing", "leading", "timestep_spacing: got 'leading', must be 'trailing'"),
        ("set_alpha_to_one", False, "set_alpha_to_one: got False, must be True"),
    ],
)
@pytest.mark.parametrize("name", [None, "euler"])
def test_a_setting_that_would_sample_wrongly_is_refused(scheduler_config, key, value, message, name):
    with pytest.raises(SchedulerError, match=message):
        scheduler_from_config(scheduler_config | {key: value}, name)


def test_all_unsuitable_settings_are_reported_at_once(scheduler_config):
    config = scheduler_config | {"set_alpha_to_one": False, "timestep_spacing": "linspace"}
    with pytest.raises(SchedulerError, match=r"(?s)timestep_spacing.*set_alpha_to_one"):
        scheduler_from_config(config)


def test_clipping_is_refused_by_the_classes_that_would_clip(scheduler_config):
    config = scheduler_config | {"clip_sample": True}
    scheduler_from_config(config)
    with pytest.raises(SchedulerError, match="clip_sample: got True, must be False"):
        scheduler_from_config(config | {"_class_name": "DDIMScheduler"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("use_karras_sigmas", True), ("final_sigmas_type", "sigma_min"), ("algorithm_type", "dpmsolver")],
)
@pytest.mark.filterwarnings("ignore:.*algorithm_type dpmsolver is deprecated.*:FutureWarning")
def test_a_solver_setting_that_leaves_the_trained_timesteps_is_refused(key, value):
    config = {
        "_class_name": "DPMSolverMultistepScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "final_sigmas_type": "zero",
    }
    scheduler_from_config(config)
    with pytest.raises(SchedulerError, match=f"{key}|final_sigmas_type"):
        scheduler_from_config(config | {key: value})


def test_recipes_offer_exactly_these_schedulers():
    assert get_args(SchedulerName) == tuple(SCHEDULERS)


def test_an_unknown_scheduler_name_is_refused_with_the_known_ones(scheduler_config):
    with pytest.raises(SchedulerError, match=r"got 'ddpm', allowed: ddim, dpm, dpm\+\+, euler, unipc"):
        scheduler_from_config(scheduler_config, "ddpm")


def test_a_class_outside_the_allowlist_is_refused(scheduler_config):
    with pytest.raises(SchedulerError, match=r"_class_name: got 'AutoModel', allowed: CogVideoXDDIM"):
        scheduler_from_config(scheduler_config | {"_class_name": "AutoModel"})


def test_settings_of_the_wrong_type_are_refused(scheduler_config):
    with pytest.raises(SchedulerError, match=r"CogVideoXDDIMScheduler cannot be built"):
        scheduler_from_config(scheduler_config | {"beta_start": "small"})
