"""Recipes of the puppet theatre's helpers that train in a second: a few steps on 16 x 16 crops."""

from __future__ import annotations

from typing import Any

import torch

from m2d.puppet.training.attribute_classifier import ClassifierRecipe
from m2d.puppet.training.fitting import Fit
from m2d.puppet.training.text_encoder import TextEncoderRecipe
from m2d.puppet.training.vae import VaeRecipe

_FIT: dict[str, Any] = {
    "title": "tiny",
    "steps": 6,
    "optimizer": {"name": "adamw", "lr": 2e-3},
    "schedule": {"name": "wsd", "warmup_steps": 1},
    "log_every_steps": 2,
    "evaluate_every_steps": 3,
}
CODEC: dict[str, Any] = _FIT | {
    "num_frames": 9,
    "height": 32,
    "width": 32,
    "block_out_channels": [8, 8, 8],
    "latent_channels": 4,
    "temporal_compression_ratio": 4,
    "batch_pixels": 4608,
    "single_share": 0.34,
    "whole_share": 0.34,
    "crop": 16,
    "actor_weight": 2.0,
    "motion_weight": 4.0,
    "kl_weight": 1e-4,
}
TEXT: dict[str, Any] = _FIT | {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
    "max_text_tokens": 36,
    "batch_size": 8,
}
DECODER: dict[str, Any] = _FIT | {
    "num_stories": 2,
    "timesteps": [20, 450],
    "encoded_share": 0.0,
    "crop": 16,
    "crops_per_scene": 2,
}
READER: dict[str, Any] = _FIT | {"num_frames": 5, "height": 32, "width": 32, "batch_size": 8}


def vae_recipe(**changes: Any) -> VaeRecipe:
    return VaeRecipe.model_validate(CODEC | changes)


def text_recipe(**changes: Any) -> TextEncoderRecipe:
    return TextEncoderRecipe.model_validate(TEXT | changes)


def classifier_recipe(**changes: Any) -> ClassifierRecipe:
    return ClassifierRecipe.model_validate(READER | changes)


def loss_left(fit: Fit, *, lr: float, steps: int) -> float:
    """Which share of its first loss is left after some steps on one batch."""
    weights = [weight for weight in fit.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=lr)
    before = fit.loss_at(0).item()
    for _ in range(steps):
        fit.loss_at(0).backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        optimizer.step()
        optimizer.zero_grad()
    return fit.loss_at(0).item() / before
