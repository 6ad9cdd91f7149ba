"""A random-weight model folder in diffusers' layout: small enough for any test, complete enough for all."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.vocabulary import token_list

MAX_TEXT_TOKENS = 40
TEXT_WIDTH = 16
LATENT_CHANNELS = 4
DEFAULTS = {
    "num_scenes": 3,
    "default_num_frames": 9,
    "default_height": 32,
    "default_width": 32,
    "default_fps": 8,
    "world": None,
}
_CLASSES = {
    "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLCogVideoX"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
}


def build_tiny_model(folder: Path) -> Path:
    """Write a model folder: 32 x 32 pixels, 9 frames, 3 scenes, the puppet theatre's words.

    Args:
        folder: Made when it is not there.

    Returns:
        `folder`. The same weights every time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tiny_transformer().save_pretrained(folder / "transformer")
        tiny_codec().save_pretrained(folder / "vae")
        tiny_text_encoder().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=1.0,
    ).save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "CogVideoXPipeline", **_CLASSES}))
    (folder / "m2d.json").write_text(json.dumps(DEFAULTS))
    return folder


def tiny_transformer() -> SceneTransformer:
    """Two layers of width 32."""
    model = SceneTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        time_embed_dim=16,
        text_embed_dim=TEXT_WIDTH,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        patch_size=2,
        max_text_seq_length=MAX_TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )
    # Fresh adaptive norms barely react to text or timestep; a test must see both.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def tiny_codec() -> AutoencoderKLCogVideoX:
    """Three levels: a quarter of the size in each direction and in time."""
    return AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8),
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=4,
        temporal_compression_ratio=4,
        sample_height=32,
        sample_width=32,
        scaling_factor=0.7,
    ).eval()


def tiny_text_encoder() -> T5EncoderModel:
    """One layer over the puppet theatre's tokens."""
    config = T5Config(
        vocab_size=len(token_list()),
        d_model=TEXT_WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The puppet theatre's own, for longer prompts."""
    return build_tokenizer(max_text_tokens=MAX_TEXT_TOKENS)
