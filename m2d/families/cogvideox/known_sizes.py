"""The configs of published CogVideoX models, as far as they decide sizes.

Owns these facts, so that a training can be planned before tens of gigabytes are downloaded. Nothing is ever
loaded by them: a model folder's own configs hold for everything else.
"""

from __future__ import annotations

from collections.abc import Mapping

from m2d.families.family import KnownModel

_COMMON = {
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "max_text_seq_length": 226,
    "patch_size": 2,
    "sample_frames": 49,
    "sample_height": 60,
    "sample_width": 90,
    "temporal_compression_ratio": 4,
    "text_embed_dim": 4096,
    "time_embed_dim": 512,
}

# transformer/config.json of zai-org/CogVideoX-2b and -5b; Mask2DiT's own weights have the sizes of 5b.
KNOWN_MODELS: Mapping[str, KnownModel] = {
    "cogvideox-2b": KnownModel(
        licence="Apache License 2.0",
        transformer={
            **_COMMON,
            "num_layers": 30,
            "num_attention_heads": 30,
            "use_rotary_positional_embeddings": False,
        },
    ),
    "cogvideox-5b": KnownModel(
        licence="CogVideoX License",
        transformer={
            **_COMMON,
            "num_layers": 42,
            "num_attention_heads": 48,
            "use_rotary_positional_embeddings": True,
        },
    ),
}
