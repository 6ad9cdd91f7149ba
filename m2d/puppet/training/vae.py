"""Training of the puppet theatre's VAE, an `AutoencoderKLCogVideoX` like CogVideoX's own.

Shapes: B clips, P frames, H W pixels. Three phases: crops of single frames, then crops of clips, then whole
clips. A crop costs a quarter of a picture, so more steps are possible; the last phase lets group norms see
whole pictures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Self

import torch
from diffusers import AutoencoderKLCogVideoX
from pydantic import Field, model_validator
from torch import Tensor

from m2d.diffusion.noise import generator
from m2d.errors import CheckpointError, Remedy
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.puppet.clips import ClipBatch, PsnrMeter, draw_clips, draw_corner, render_batch
from m2d.puppet.training.fitting import Fit, FitRecipe
from m2d.training.state import FOLDER as CHECKPOINTS
from m2d.training.state import load_run_average

_HELD_OUT_SEED = 990_001
_EVALUATION_BATCH = 8
_FRAMES_PER_CLIP = 4
ENCODER = "encoder."
"""Prefix of the names of the encoder's weights."""
_MOTION_THRESHOLD = 0.05
_NORM_GROUPS = 8


class VaeRecipe(FitRecipe):
    """Sizes and loss of the VAE.

    Attributes:
        block_out_channels: Channels per level; each further level halves the picture.
        batch_pixels: Pixels in the batch of a step; batches of crops hold more clips.
        single_share: Share of the steps on single frames.
        whole_share: Share of the steps, at the end, on whole clips.
        crop: Side of a crop in pixels.
        actor_weight: Extra weight of actors' pixels in the loss.
        motion_weight: Extra weight of pixels that change between frames: frames that share a latent frame
            blur where something moves.
        kl_weight: Weight of the KL divergence per latent element.
        init: Run folder of a VAE, or a model, of the same channels to start from; its temporal
            compression may differ.
        freeze_encoder: Train the decoder alone, so that latents and the transformers trained on them stay
            valid.
    """

    num_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    block_out_channels: tuple[int, ...]
    latent_channels: int = Field(ge=1)
    temporal_compression_ratio: int = Field(ge=1)
    batch_pixels: int = Field(ge=1)
    single_share: float = Field(ge=0, le=1)
    whole_share: float = Field(ge=0, le=1)
    crop: int = Field(ge=8)
    actor_weight: float = Field(ge=0, le=1e6)
    motion_weight: float = Field(ge=0, le=1e6)
    kl_weight: float = Field(ge=0, le=1e6)
    init: str | None = None
    freeze_encoder: bool = False

    @model_validator(mode="after")
    def _has_sizes_that_the_vae_can_do(self) -> Self:
        # diffusers' decoder takes an even number of latent frames for the middle of a clip.
        group = 2 * self.temporal_compression_ratio
        if self.temporal_compression_ratio > 1 and self.num_frames % group != 1:
            raise ValueError(f"num_frames: {self.num_frames} is not {group}k+1; use 1 or {group + 1}")
        if odd := [size for size in self.block_out_channels if size % _NORM_GROUPS]:
            raise ValueError(f"block_out_channels: {odd[0]} is not a multiple of {_NORM_GROUPS}")
        pixels = 2 ** (len(self.block_out_channels) - 1)
        for name, size in (("height", self.height), ("width", self.width), ("crop", self.crop)):
            if size % pixels:
                raise ValueError(f"{name}: {size} is not a multiple of {pixels}, the pixels per latent")
        return self


def build_vae(recipe: VaeRecipe) -> AutoencoderKLCogVideoX:
    """Return the VAE with random weights from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    levels = len(recipe.block_out_channels)
    return AutoencoderKLCogVideoX(
        block_out_channels=recipe.block_out_channels,
        down_block_types=("CogVideoXDownBlock3D",) * levels,
        up_block_types=("CogVideoXUpBlock3D",) * levels,
        latent_channels=recipe.latent_channels,
        layers_per_block=1,
        norm_num_groups=_NORM_GROUPS,
        temporal_compression_ratio=recipe.temporal_compression_ratio,
        sample_height=recipe.height,
        sample_width=recipe.width,
    )


def vae_fit(recipe: VaeRecipe, run: Path) -> Fit:
    """Return the VAE's training, for `run_fit`.

    Raises:
        CheckpointError: `init` has no checkpoint that verifies, or a VAE of other channels.
    """
    vae = build_vae(recipe)
    if recipe.init is not None:
        _start_from(vae, recipe.init)
    vae.encoder.requires_grad_(not recipe.freeze_encoder)
    held_out = _render(recipe, seed=_HELD_OUT_SEED, step=0, count=32)

    def loss_at(step: int) -> Tensor:
        frames_BCPHW, weights_B1PHW = _batch(recipe, step)
        posterior = vae.encode(frames_BCPHW).latent_dist
        latents = posterior.sample(generator(recipe.seed, purpose="codec posterior", step=step))
        error_BCPHW = vae.decode(latents).sample - frames_BCPHW
        # A little absolute error keeps the gradient of pixels that are nearly right.
        reconstruction = (weights_B1PHW * (error_BCPHW.square() + 0.05 * error_BCPHW.abs())).mean()
        loss: Tensor = reconstruction + recipe.kl_weight * (posterior.kl().mean() / latents[0].numel())
        return loss

    evaluate = partial(reconstruction_psnr, batch=held_out)
    return Fit(name="VAE", model=vae, loss_at=loss_at, evaluate=evaluate, run=run)


def _start_from(vae: AutoencoderKLCogVideoX, init: str) -> None:
    is_run = (Path(init) / CHECKPOINTS).is_dir()
    if is_run:
        weights = load_run_average(Path(init))
    else:
        weights = load_vae(resolve_model(init), device="cpu", dtype=torch.float32).module.state_dict()
    if is_decoder_alone(weights):
        raise CheckpointError(f"init: {init}: its decoder alone was trained", remedy=Remedy.PACK_MODEL)
    try:
        vae.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"init: {init}: made with other channels: {str(error).splitlines()[0]}"
        ) from error


def is_decoder_alone(weights: Mapping[str, Tensor]) -> bool:
    """Whether the weights come from a run with a frozen encoder, whose checkpoints have no encoder."""
    return not any(name.startswith(ENCODER) for name in weights)


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKLCogVideoX, batch: ClipBatch) -> dict[str, float]:
    """Return PSNR in dB over all pixels and inside the actors' boxes, through the posterior's mean."""
    psnr = PsnrMeter()
    for start in range(0, len(batch.frames_BPCHW), _EVALUATION_BATCH):
        part = slice(start, start + _EVALUATION_BATCH)
        frames_BPCHW = batch.frames_BPCHW[part]
        latents = vae.encode(frames_BPCHW.transpose(1, 2) * 2 - 1).latent_dist.mean
        decoded_BPCHW = (vae.decode(latents).sample.transpose(1, 2).clamp(-1, 1) + 1) / 2
        psnr.add(decoded_BPCHW, frames_BPCHW, batch.actors_BP1HW[part])
    return psnr.read()


def latent_std(vae: AutoencoderKLCogVideoX, recipe: VaeRecipe) -> float:
    """Return the standard deviation of held-out latents; its inverse is the VAE's scaling factor."""
    batch = _render(recipe, seed=_HELD_OUT_SEED, step=1, count=32)
    with torch.no_grad():
        return float(vae.encode(batch.frames_BPCHW.transpose(1, 2) * 2 - 1).latent_dist.mean.std())


def _render(recipe: VaeRecipe, *, seed: int, step: int, count: int) -> ClipBatch:
    clips = draw_clips(seed=seed, step=step, count=count)
    return render_batch(clips, num_frames=recipe.num_frames, height=recipe.height, width=recipe.width)


def _batch(recipe: VaeRecipe, step: int) -> tuple[Tensor, Tensor]:
    """Return frames in -1..1 (B, 3, P, H, W) and the loss weights (B, 1, P, H, W) of one step."""
    draw = generator(recipe.seed, purpose="codec batch", step=step)
    is_single = step < recipe.single_share * recipe.steps
    is_whole = step >= (1 - recipe.whole_share) * recipe.steps
    num_frames = 1 if is_single else recipe.num_frames
    side = max(recipe.height, recipe.width) if is_whole else recipe.crop
    height, width = min(side, recipe.height), min(side, recipe.width)
    count = max(recipe.batch_pixels // (num_frames * height * width), 1)
    # Rendering a clip costs as much as training on a few of its frames: several single frames share a clip.
    num_clips = math.ceil(count / _FRAMES_PER_CLIP) if is_single else count
    clips = draw_clips(seed=recipe.seed, step=step, count=num_clips)
    batch = render_batch(clips, num_frames=recipe.num_frames, height=recipe.height, width=recipe.width)
    items = [
        (batch.frames_BPCHW[item % num_clips], batch.actors_BP1HW[item % num_clips]) for item in range(count)
    ]
    crops = [_cut(item, num_frames, height, width, draw=draw) for item in items]
    frames_BPCHW = torch.stack([crop[0] for crop in crops])
    actors_BP1HW = torch.stack([crop[1] for crop in crops])
    weights_BP1HW = 1 + recipe.actor_weight * actors_BP1HW + recipe.motion_weight * _motion(frames_BPCHW)
    return frames_BPCHW.transpose(1, 2) * 2 - 1, weights_BP1HW.transpose(1, 2)


def _motion(frames_BPCHW: Tensor) -> Tensor:
    """Return 1 where a pixel differs from the frame before or after, else 0, shape (B, P, 1, H, W)."""
    moved = (frames_BPCHW.diff(dim=1).abs().amax(2, keepdim=True) > _MOTION_THRESHOLD).to(torch.float32)
    none = torch.zeros_like(frames_BPCHW[:, :1, :1])
    return torch.maximum(torch.cat([none, moved], 1), torch.cat([moved, none], 1))


def _cut(
    item: tuple[Tensor, Tensor], num_frames: int, height: int, width: int, *, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a random window, most often around a random pixel of an actor."""
    frames_PCHW, actors_P1HW = item
    first = int(torch.randint(len(frames_PCHW) - num_frames + 1, (), generator=draw))
    rooms = (frames_PCHW.shape[-2] - height, frames_PCHW.shape[-1] - width)
    pixels = actors_P1HW[first, 0].nonzero()
    top, left = draw_corner(rooms, pixels, side=(height, width), draw=draw)
    part = (
        slice(first, first + num_frames),
        slice(None),
        slice(top, top + height),
        slice(left, left + width),
    )
    return frames_PCHW[part], actors_P1HW[part]
