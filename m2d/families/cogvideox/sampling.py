"""How published CogVideoX models sample by default, as their authors recommend. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from m2d.model.settings import SamplingDefaults

# `inference/cli_demo.py` of THUDM/CogVideo: DDIM, which the folder names, for 2B; DPM with `use_dynamic_cfg`
# for 5B.
_2B = SamplingDefaults(num_inference_steps=50, guidance_scale=6.0)
_5B = SamplingDefaults(num_inference_steps=50, guidance_scale=6.0, scheduler="dpm", dynamic_guidance=True)
# The official Mask2DiT code samples with DDIM and constant guidance, although its weights come from 5B.
_MASK2DIT = _2B
_MASK2DIT_CLASS = "MultiPromptCogVideoXTransformer3DModel"


def default_sampling(transformer: Mapping[str, Any]) -> SamplingDefaults:
    """Return the defaults of the published model that a transformer's config belongs to."""
    if transformer.get("_class_name") == _MASK2DIT_CLASS:
        return _MASK2DIT
    # Of the published models, 5B alone has rotary positions.
    return _5B if transformer.get("use_rotary_positional_embeddings") else _2B
