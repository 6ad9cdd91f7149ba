from __future__ import annotations

import math
from typing import Any

import pytest

from m2d.families.cogvideox.known_sizes import KNOWN_MODELS
from m2d.model.config_bounds import config_problems, least_parameters, table_values

# As published, without the keys that say where a config came from.
COGVIDEOX_5B = dict(KNOWN_MODELS["cogvideox-5b"].transformer)
# The published files hold more than what m2d writes.
COGVIDEOX_VAE = {
    **KNOWN_MODELS["cogvideox-2b"].vae,
    "invert_scale_latents": False,
    "latents_mean": None,
    "latents_std": None,
    "shift_factor": None,
}
T5_XXL = {
    **KNOWN_MODELS["cogvideox-5b"].text_encoder,
    "architectures": ["T5EncoderModel"],
    "decoder_start_token_id": 0,
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_decoder_layers": 24,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
}
SCHEDULER = {
    "_class_name": "CogVideoXDDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "snr_shift_scale": 3.0,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "trained_betas": None,
}
# Parameters of the published files.
KNOWN: list[tuple[str, dict[str, Any], float]] = [
    *(("transformer", dict(known.transformer), known.num_parameters) for known in KNOWN_MODELS.values()),
    ("vae", COGVIDEOX_VAE, 215e6),
    ("text_encoder", T5_XXL, 4.76e9),
]


@pytest.mark.parametrize(("name", "config", "num_parameters"), KNOWN)
def test_published_models_are_within_the_bounds(
    name: str, config: dict[str, Any], num_parameters: float
) -> None:
    assert list(config_problems(name, config)) == []
    assert num_parameters / 4 < least_parameters(name, config) < num_parameters
    assert table_values(config) < num_parameters
    assert list(config_problems("scheduler", SCHEDULER)) == []


HOSTILE: list[Any] = [
    *(10**18, -1, 0.5, math.nan, math.inf, -math.inf, "7", [7], {"a": 7}, True, 10**400),
    [[[[[[[[[[]]]]]]]]]],
]
# A zero is allowed for some.
NUMBERS = [
    (name, key)
    for name, config in (
        ("transformer", COGVIDEOX_5B),
        ("vae", COGVIDEOX_VAE),
        ("text_encoder", T5_XXL),
        ("scheduler", SCHEDULER),
    )
    for key, value in config.items()
    if type(value) in (int, float)
    and key not in {"patch_size", "freq_shift", "decoder_start_token_id", "initializer_factor"}
]


@pytest.mark.parametrize(("name", "key"), NUMBERS)
def test_a_number_that_is_none_or_out_of_bounds_is_named(name: str, key: str) -> None:
    configs = {"transformer": COGVIDEOX_5B, "vae": COGVIDEOX_VAE, "text_encoder": T5_XXL}
    config = configs.get(name, SCHEDULER)
    is_share = type(config[key]) is float
    for value in HOSTILE:
        if is_share and value == 0.5:
            continue
        problems = list(config_problems(name, config | {key: value}))
        assert len(problems) == 1, (key, value)
        assert problems[0].startswith(f"{key}: ")
        assert len(problems[0]) < 200


@pytest.mark.parametrize(
    ("name", "entries", "message"),
    [
        ("vae", {"scaling_factor": 0}, "scaling_factor: 0 must be a number from 1e-06"),
        ("vae", {"scaling_factor": math.nan}, "scaling_factor: nan must be a number"),
        ("vae", {"block_out_channels": []}, r"block_out_channels: \[\] is not a list of 1 to 10"),
        ("vae", {"block_out_channels": [8] * 99}, "is not a list of 1 to 10"),
        ("vae", {"block_out_channels": [8, 10**12, 8, 8]}, "each must be a whole number from 1"),
        ("vae", {"norm_num_groups": 7}, "norm_num_groups: 7 does not divide each of block_out_channels"),
        ("vae", {"up_block_types": ["A"]}, "up_block_types: has 1 entries, block_out_channels 4"),
        ("vae", {"act_fn": "os.system"}, "act_fn: 'os.system' must be one of silu"),
        ("transformer", {"activation_fn": "eval"}, "activation_fn: 'eval' must be one of gelu"),
        ("transformer", {"attention_head_dim": 20}, "attention_head_dim: 20 must be a multiple of 16"),
        ("transformer", {"patch_size": [1, 2, 2, 2]}, "patch_size: .* is not a list of 1 to 3"),
        ("transformer", {"attention_bias": 1}, "attention_bias: 1 must be true or false"),
        ("transformer", {"unknown": 1e300}, r"unknown: 1e\+300 is not a number up to 1e\+09"),
        ("transformer", {"unknown": "x" * 100_000}, "unknown: 'x+... is longer than 10,000 letters"),
        ("text_encoder", {"feed_forward_proj": "gated-x"}, "feed_forward_proj: 'gated-x' must be one of"),
        ("scheduler", {"trained_betas": [0.1, 2]}, "trained_betas: .* each must be a number from 0 to 1"),
        ("scheduler", {"trained_betas": [0.1] * 100_000}, "trained_betas: .* is not a list of 1 to 10,000"),
        ("scheduler", {"beta_schedule": "cubic"}, "beta_schedule: 'cubic' must be one of linear"),
    ],
)
def test_what_no_model_has_is_rejected(name: str, entries: dict[str, Any], message: str) -> None:
    configs = {"transformer": COGVIDEOX_5B, "vae": COGVIDEOX_VAE, "text_encoder": T5_XXL}
    with pytest.raises(ValueError, match=message):
        raise ValueError("\n".join(config_problems(name, configs.get(name, SCHEDULER) | entries)))
