"""The cases that are timed and counted: sizes of models and stories, random weights and random inputs.

Owns the numbers of every case; runs nothing.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent size, L text tokens, D width.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from m2d.families.cogvideox.family import COGVIDEOX
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel

PATCH = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """The sizes of a model and a story.

    Attributes:
        num_heads: Heads of 64 channels.
        num_layers: Blocks.
        num_scenes: Scenes of equal length.
        text_tokens: Text tokens of one scene.
        latent_frames: Latent frames of one scene.
        grid: Tokens of a frame as (rows, columns).
        batch_size: 2 for guidance in one batch.
        text_width: Width of the prompts' embeddings.
        time_width: Width of the timestep embedding.
        channels: Latent channels.
    """

    num_heads: int
    num_layers: int
    num_scenes: int = 3
    text_tokens: int
    latent_frames: int
    grid: tuple[int, int]
    batch_size: int = 2
    text_width: int = 64
    time_width: int = 128
    channels: int = 16

    @property
    def layout(self) -> SceneLayout:
        """Return the story's layout with the default mask."""
        return self.layout_with("mask2dit")

    def layout_with(self, mask: str) -> SceneLayout:
        """Return the story's layout with another mask."""
        return SceneLayout.build(
            mask,
            text_tokens=[self.text_tokens] * self.num_scenes,
            latent_frames=[self.latent_frames] * self.num_scenes,
            tokens_per_frame=self.grid[0] * self.grid[1],
        )

    @property
    def name(self) -> str:
        """Return a short label: scenes, tokens and layers."""
        video = self.latent_frames * self.grid[0] * self.grid[1]
        return f"{self.num_scenes}x({self.text_tokens}+{video}) tokens, {self.num_layers} layers"


TINY = Case(num_heads=4, num_layers=8, text_tokens=8, latent_frames=3, grid=(8, 8))
TINY_LONG = Case(num_heads=4, num_layers=2, text_tokens=16, latent_frames=4, grid=(16, 16))
MID = Case(num_heads=4, num_layers=8, text_tokens=16, latent_frames=4, grid=(16, 16))
# The last block saves work, because its text rows reach no output. With four blocks that weighs less.
BLOCK_5B = Case(
    num_heads=48,
    num_layers=1,
    text_tokens=226,
    latent_frames=13,
    grid=(30, 45),
    text_width=4096,
    time_width=512,
)
FOUR_BLOCKS_5B = Case(
    num_heads=48,
    num_layers=4,
    text_tokens=226,
    latent_frames=13,
    grid=(30, 45),
    text_width=4096,
    time_width=512,
)
CASES: Mapping[str, Case] = {
    "tiny": TINY,
    "tiny-long": TINY_LONG,
    "mid": MID,
    "5b-block": BLOCK_5B,
    "5b-4-blocks": FOUR_BLOCKS_5B,
}

SHARPNESS = 4.0
"""Factor for random queries, so that a wrong mask shows in the results."""


class Inputs(NamedTuple):
    """The arguments of a transformer call."""

    latents_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor


def make_transformer(
    case: Case, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0
) -> SceneModel:
    """Make a transformer with random weights, ready for inference; equal for equal seeds on one device."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = COGVIDEOX.build_transformer(
            num_attention_heads=case.num_heads,
            attention_head_dim=64,
            in_channels=case.channels,
            out_channels=case.channels,
            time_embed_dim=case.time_width,
            text_embed_dim=case.text_width,
            num_layers=case.num_layers,
            sample_height=case.grid[0] * PATCH,
            sample_width=case.grid[1] * PATCH,
            sample_frames=(case.latent_frames - 1) * 4 + 1,
            patch_size=PATCH,
            max_text_seq_length=case.text_tokens,
            use_rotary_positional_embeddings=True,
            # As in CogVideoX-5B.
            attention_bias=True,
        )
    # Random queries attend to all keys about equally under any mask; scaled up, each attends to a few.
    for name, weight in model.named_parameters():
        if name.endswith("norm_q.weight"):
            weight.data.mul_(SHARPNESS)
    model.to(dtype).eval().requires_grad_(False)
    return model


def make_inputs(
    case: Case,
    *,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    target: int | None = None,
    seed: int = 0,
) -> Inputs:
    """Draw inputs; with a target, the other scenes have timestep 0. Never zeros, which run faster."""
    stream = torch.Generator(device="cpu").manual_seed(seed)
    batch, scenes = case.batch_size, case.num_scenes
    shape = (batch, scenes * case.latent_frames, case.channels, case.grid[0] * PATCH, case.grid[1] * PATCH)
    timesteps_BN = torch.full((batch, scenes), 600)
    if target is not None:
        timesteps_BN = timesteps_BN * (torch.arange(scenes) == target)
    latents = torch.randn(shape, generator=stream)
    prompts = torch.randn(batch, scenes * case.text_tokens, case.text_width, generator=stream)
    return Inputs(latents.to(device, dtype), prompts.to(device, dtype), timesteps_BN.to(device))
