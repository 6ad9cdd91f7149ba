"""Tiny random networks in the layout of transformers, and of ViCLIP."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

_SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
_CROP = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
NUM_TOKENS = 40


def hub_folder(kind: str, folder: Path) -> Path:
    """Write a tiny random model: `clip`, `dino` or `videomae`."""
    import transformers

    torch.manual_seed(0)
    model: Any
    processor: Any = transformers.BitImageProcessorPil(**_CROP)
    if kind == "clip":
        text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        words = {
            "vocab_size": NUM_TOKENS,
            "max_position_embeddings": 12,
            "eos_token_id": NUM_TOKENS - 1,
            "bos_token_id": 38,
        }
        config = transformers.CLIPConfig(
            vision_config=_SIZE | {"intermediate_size": 16, "patch_size": 14},
            text_config=text | words,
            projection_dim=8,
        )
        model, processor = transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(**_CROP)
    elif kind == "videomae":
        sizes = _SIZE | {"patch_size": 14, "num_frames": 4, "intermediate_size": 16}
        model = transformers.VideoMAEModel(transformers.VideoMAEConfig(**sizes))
        processor = transformers.VideoMAEImageProcessorPil(**_CROP)
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**_SIZE, patch_size=14))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_words(folder: Path) -> None:
    """Write vocab.json and merges.txt: letters, their ends of words, and `a`+`b</w>` as one."""
    letters = "abcdefghijklmnop."
    words = [*letters, *(letter + "</w>" for letter in letters), "ab</w>"]
    vocabulary = {word: place for place, word in enumerate(words)}
    vocabulary |= {"<|startoftext|>": NUM_TOKENS - 2, "<|endoftext|>": NUM_TOKENS - 1}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b</w>\n")


def write_published_words(folder: Path, *, merges: int) -> None:
    """Write the file of CLIP's merges with a few merges of two letters."""
    pairs = [f"{one} {two}" for one in "abcdefgh" for two in "abcdefgh"][:merges]
    text = "\n".join(['"bpe_simple_vocab_16e6.txt#version: 0.2', *pairs])
    (folder / "bpe_simple_vocab_16e6.txt.gz").write_bytes(gzip.compress(text.encode()))


def text_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the weights of transformers' CLIP text model under the names of ViCLIP's text encoder."""
    found = {}
    parts = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    state = model.state_dict()
    for number in range(model.config.num_hidden_layers):
        theirs, ours = f"text_model.encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            for name, other in parts.items():
                found[f"{ours}.{name}.{kind}"] = state[f"{theirs}.{other}.{kind}"]
            joined = [state[f"{theirs}.self_attn.{each}_proj.{kind}"] for each in "qkv"]
            found[f"{ours}.attn.in_proj_{kind}"] = torch.cat(joined)
    for kind in ("weight", "bias"):
        found[f"ln_final.{kind}"] = state[f"text_model.final_layer_norm.{kind}"]
    found["token_embedding.weight"] = state["text_model.embeddings.token_embedding.weight"]
    found["positional_embedding"] = state["text_model.embeddings.position_embedding.weight"]
    found["text_projection"] = state["text_projection.weight"].T.contiguous()
    return found


def write_viclip(folder: Path, video: dict[str, torch.Tensor], text: dict[str, torch.Tensor]) -> Path:
    """Write `model.safetensors` of ViCLIP."""
    folder.mkdir(exist_ok=True)
    named = {f"vision_encoder.{name}": value for name, value in video.items()}
    named |= {f"text_encoder.{name}": value for name, value in text.items()}
    save_file(named, folder / "model.safetensors")
    return folder
