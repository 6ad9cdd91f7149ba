"""Model folders of a published model's exact layout with random weights, for tests and dry runs.

Owns their configs, weights and tokenizer; the folder appears complete or not at all.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from huggingface_hub import save_torch_state_dict
from torch import nn
from transformers import T5Config, T5EncoderModel

from m2d.families.family import KnownModel
from m2d.files import write_bytes, write_json
from m2d.model.components import COMPONENTS, Component
from m2d.model.folder import read_json

# A tiny model keeps the structure, and so every rule, of the published one.
_TINY_TRANSFORMER = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "time_embed_dim": 16,
    "text_embed_dim": 16,
}
# 48 x 80 pixels, in latents; two steps of frames.
_TINY_SAMPLE = {"sample_height": 6, "sample_width": 10, "sample_frames": 9}
_TINY_FRAMES_OF_V1_5 = 17
_TINY_CHANNELS = 4
_TINY_VAE = {
    "block_out_channels": [8, 8, 8, 8],
    "latent_channels": _TINY_CHANNELS,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_TINY_T5 = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1, "vocab_size": 400}
_SHARD = "5GB"
_SPELLING_TOKENS = 300
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SIGNS = "0 1 2 3 4 5 6 7 8 9 . , ; : ! ? ' ( ) -"


def write_random_folder(
    folder: Path, known: KnownModel, *, num_layers: int | None = None, is_tiny: bool = False, seed: int = 0
) -> None:
    """Write a folder with random weights.

    Args:
        folder: An empty folder.
        known: The published model whose layout it has.
        num_layers: Layers of transformer and text encoder; None for all.
        is_tiny: Whether widths, channels and sizes are a few, for tests.
        seed: The same seed writes the same weights.
    """
    configs = _configs(known, num_layers=num_layers, is_tiny=is_tiny)
    dtype = torch.float32 if is_tiny else getattr(torch, known.dtype)
    stream = torch.Generator().manual_seed(seed)
    for name in ("transformer", "vae", "text_encoder"):
        # Not the model's own method: diffusers 0.42 warns on every cast, about an empty list of layers.
        model = nn.Module.to(_build(name, configs[name]), dtype=dtype)
        _randomize(model, stream)
        _save(model, folder / name, COMPONENTS[name])
    place = folder / "transformer" / COMPONENTS["transformer"].config
    write_json(place, read_json(folder, "transformer/config.json") | {"_class_name": known.transformer_class})
    CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        set_alpha_to_one=True,
        snr_shift_scale=known.snr_shift_scale,
        timestep_spacing="trailing",
    ).save_pretrained(folder / "scheduler")
    _write_tokenizer(folder / "tokenizer", vocab_size=configs["text_encoder"]["vocab_size"])
    write_json(
        folder / "model_index.json",
        {
            "_class_name": known.pipeline,
            "scheduler": ["diffusers", "CogVideoXDDIMScheduler"],
            "text_encoder": ["transformers", "T5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "CogVideoXTransformer3DModel"],
            "vae": ["diffusers", "AutoencoderKLCogVideoX"],
        },
    )


def _configs(known: KnownModel, *, num_layers: int | None, is_tiny: bool) -> dict[str, dict[str, Any]]:
    transformer, vae, text = dict(known.transformer), dict(known.vae), dict(known.text_encoder)
    if is_tiny:
        shares = {key: transformer[key] // vae["latent_channels"] for key in ("in_channels", "out_channels")}
        transformer |= _TINY_TRANSFORMER
        transformer |= {key: share * _TINY_CHANNELS for key, share in shares.items()}
        transformer |= _TINY_SAMPLE
        if transformer.get("patch_size_t"):
            transformer["sample_frames"] = _TINY_FRAMES_OF_V1_5
        if transformer.get("ofs_embed_dim"):
            transformer["ofs_embed_dim"] = _TINY_TRANSFORMER["text_embed_dim"]
        vae |= _TINY_VAE
        text |= _TINY_T5
    if num_layers is not None:
        transformer["num_layers"] = min(num_layers, transformer["num_layers"])
        text["num_layers"] = min(num_layers, text["num_layers"])
    return {"transformer": transformer, "vae": vae, "text_encoder": text}


def _build(name: str, config: Mapping[str, Any]) -> Any:
    if name == "text_encoder":
        return T5EncoderModel(T5Config(**config, is_encoder_decoder=False, use_cache=False))
    return (CogVideoXTransformer3DModel if name == "transformer" else AutoencoderKLCogVideoX)(**config)


def _save(model: Any, folder: Path, component: Component) -> None:
    folder.mkdir()
    if isinstance(model, T5EncoderModel):
        model.config.architectures = ["T5EncoderModel"]
        model.config.save_pretrained(folder)
    else:
        model.save_config(folder)
    pattern = f"{component.stem}{{suffix}}.safetensors"
    tied = getattr(model, "_tied_weights_keys", None) or {}
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    save_torch_state_dict(weights, folder, filename_pattern=pattern, max_shard_size=_SHARD)


@torch.no_grad()
def _randomize(model: nn.Module, stream: torch.Generator) -> None:
    """Draw weights that keep activations near 1, so that text, timestep and positions all show."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1 / math.sqrt(parameter[0].numel()), generator=stream)
        elif name.endswith("bias"):
            parameter.normal_(std=0.1, generator=stream)
    stored = model.state_dict()
    for name, table in model.named_buffers():
        # Learned positions; tables that are computed are not stored.
        if name in stored:
            table.normal_(std=0.1, generator=stream)


def _write_tokenizer(folder: Path, *, vocab_size: int) -> None:
    """Write a SentencePiece model with T5's special tokens that spells every lower-case word."""
    pairs = [first + second for first in _LETTERS for second in _LETTERS]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(pairs), " ".join(_LETTERS), _SIGNS]),
        model_writer=model,
        model_type="unigram",
        vocab_size=min(vocab_size, _SPELLING_TOKENS),
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=1.0,
        minloglevel=2,
    )
    folder.mkdir()
    write_bytes(folder / "spiece.model", model.getvalue(), force=False)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "T5Tokenizer",
            "eos_token": "</s>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "extra_ids": 0,
            "model_max_length": 226,
        },
    )
