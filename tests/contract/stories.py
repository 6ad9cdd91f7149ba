"""Stories that every backend is run on, what it is called with, and what it has to answer."""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions, Denoiser, ExportingBackend
from m2d.errors import ArtifactMissing
from m2d.families.loading import load_transformer
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH

THREE_SCENES = "three scenes"
LAYOUTS = {
    THREE_SCENES: SceneLayout.build(
        "mask2dit", text_tokens=(5, 5, 5), latent_frames=(2, 2, 2), tokens_per_frame=4
    ),
    "unequal scenes": SceneLayout.build(
        "anchor", text_tokens=(4, 2, 3), latent_frames=(1, 3, 2), tokens_per_frame=4
    ),
    "one scene": SceneLayout.build("full", text_tokens=(5,), latent_frames=(3,), tokens_per_frame=4),
}
TARGETS = (0, 2)
SIZE = (4, 4)
RELATIVE_ERROR = 1e-5
"""The same float32 arithmetic in another order: what m2d promises of every backend."""


class Inputs(NamedTuple):
    latents_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor


def inputs_for(layout: SceneLayout, *, batch: int = 1, timesteps: Sequence[int] | None = None) -> Inputs:
    """Random latents and prompts; every scene has a timestep of its own, the first one's is context's."""
    stream = torch.Generator().manual_seed(layout.num_tokens)
    timesteps = timesteps or (0, *range(999, 999 - 7 * (layout.num_scenes - 1), -7))
    return Inputs(
        torch.randn(batch, sum(layout.latent_frames), LATENT_CHANNELS, *SIZE, generator=stream),
        torch.randn(batch, layout.num_text_tokens, TEXT_WIDTH, generator=stream),
        torch.tensor(timesteps).expand(batch, -1),
    )


def options_for(*, batch: int = 1, **others: Any) -> BackendOptions:
    return BackendOptions(latent_size=SIZE, batch_size=batch, **others)


def prepare(backend: Backend, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
    """Prepare a denoiser; a graph that it needs is exported when it is not there yet."""
    if isinstance(backend, ExportingBackend):
        try:
            backend.find(source, layout, options)
        except ArtifactMissing:
            backend.export(source, layout, options)
    return backend.prepare(source, layout, options)


def oracle(
    source: ModelSource, layout: SceneLayout, inputs: Inputs, targets: Sequence[int] | None = None
) -> Tensor:
    """The transformer itself, called directly, on all scenes; then the targets' part of it."""
    transformer = load_transformer(source, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        velocity_BFCHW: Tensor = transformer(*inputs, layout=layout)
    scenes = range(layout.num_scenes) if targets is None else targets
    return torch.cat([velocity_BFCHW[:, layout.frame_span(scene).as_slice] for scene in scenes], dim=1)


def assert_same_velocity(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=RELATIVE_ERROR * expected.abs().max().item())
