"""The published CogVideoX models as data: configs, rules and licences. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from m2d.families.family import KnownModel

# transformer/config.json of the repositories named below, without the keys that all of them share.
_COMMON = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 64,
    "dropout": 0.0,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 16,
    "max_text_seq_length": 226,
    "norm_elementwise_affine": True,
    "norm_eps": 1e-05,
    "num_attention_heads": 48,
    "num_layers": 42,
    "out_channels": 16,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "spatial_interpolation_scale": 1.875,
    "temporal_compression_ratio": 4,
    "temporal_interpolation_scale": 1.0,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
    "timestep_activation_fn": "silu",
    "use_learned_positional_embeddings": False,
    "use_rotary_positional_embeddings": True,
}
_V1_5 = {
    **_COMMON,
    "max_text_seq_length": 224,
    "patch_bias": False,
    "patch_size_t": 2,
    "sample_frames": 81,
    "sample_height": 300,
    "sample_width": 300,
}
_VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 256, 512],
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 16,
    "layers_per_block": 3,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_height": 480,
    "sample_width": 720,
    "scaling_factor": 0.7,
    "temporal_compression_ratio": 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}
# google/t5-v1_1-xxl, the text encoder of all of them.
_T5_XXL = {
    "d_ff": 10240,
    "d_kv": 64,
    "d_model": 4096,
    "feed_forward_proj": "gated-gelu",
    "num_heads": 64,
    "num_layers": 24,
    "vocab_size": 32128,
}
_TEXT_TO_VIDEO, _IMAGE_TO_VIDEO = "CogVideoXPipeline", "CogVideoXImageToVideoPipeline"
_5B_LICENCE = "CogVideoX License"
# What the model cards say of 1.5; its configs hold the size of a square that fits all its pictures.
_V1_5_RULES: dict[str, Any] = {"height": 768, "width": 1360, "num_frames": 81, "fps": 16, "frame_step": 16}
_V1_RULES: dict[str, Any] = {"height": 480, "width": 720, "num_frames": 49, "fps": 8, "frame_step": 4}

_5B = KnownModel(
    name="CogVideoX-5b",
    num_parameters=5_570_283_072,
    licence=_5B_LICENCE,
    pipeline=_TEXT_TO_VIDEO,
    dtype="bfloat16",
    transformer=_COMMON,
    vae=_VAE,
    text_encoder=_T5_XXL,
    **_V1_RULES,
)
_MODELS = (
    KnownModel(
        name="CogVideoX-2b",
        num_parameters=1_693_783_872,
        licence="Apache License 2.0",
        pipeline=_TEXT_TO_VIDEO,
        dtype="float16",
        transformer={
            **_COMMON,
            "num_layers": 30,
            "num_attention_heads": 30,
            "use_rotary_positional_embeddings": False,
        },
        vae={**_VAE, "scaling_factor": 1.15258426},
        text_encoder=_T5_XXL,
        snr_shift_scale=3.0,
        **_V1_RULES,
    ),
    _5B,
    # Only its transformer is published; the other parts are those of CogVideoX-5b.
    replace(
        _5B,
        name="Mask2DiT",
        num_scenes=3,
        transformer_class="MultiPromptCogVideoXTransformer3DModel",
    ),
    KnownModel(
        name="CogVideoX-5b-I2V",
        num_parameters=5_570_479_680,
        licence=_5B_LICENCE,
        pipeline=_IMAGE_TO_VIDEO,
        dtype="bfloat16",
        transformer={**_COMMON, "in_channels": 32, "use_learned_positional_embeddings": True},
        vae=_VAE,
        text_encoder=_T5_XXL,
        is_fixed_size=True,
        **_V1_RULES,
    ),
    KnownModel(
        name="CogVideoX1.5-5B",
        num_parameters=5_570_676_352,
        licence=_5B_LICENCE,
        pipeline=_TEXT_TO_VIDEO,
        dtype="bfloat16",
        transformer=_V1_5,
        vae={**_VAE, "invert_scale_latents": True},
        text_encoder=_T5_XXL,
        **_V1_5_RULES,
    ),
    KnownModel(
        name="CogVideoX1.5-5B-I2V",
        num_parameters=5_571_594_880,
        licence=_5B_LICENCE,
        pipeline=_IMAGE_TO_VIDEO,
        dtype="bfloat16",
        transformer={**_V1_5, "in_channels": 32, "ofs_embed_dim": 512},
        vae={**_VAE, "invert_scale_latents": True},
        text_encoder=_T5_XXL,
        **_V1_5_RULES,
    ),
)
KNOWN_MODELS: Mapping[str, KnownModel] = {model.name.lower(): model for model in _MODELS}
