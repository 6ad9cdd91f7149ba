"""CogVideoX's scheduler settings, as its model folders ship them."""

from typing import Any

import pytest


@pytest.fixture(params=[1.0, 3.0], ids=["5b", "2b"])
def scheduler_config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {
        "_class_name": "CogVideoXDDIMScheduler",
        "_diffusers_version": "0.30.0.dev0",
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "snr_shift_scale": request.param,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    }
