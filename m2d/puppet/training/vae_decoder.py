"""Training of the VAE's decoder on latents predicted by transformers, so that it corrects their errors.

A decoder trained on the encoder's latents alone shows the errors of a transformer's latents: frayed edges,
remains of other hats. Here latents are noised, a transformer predicts the clean latents, and the decoder
learns to decode them to the original frames. The encoder is frozen, so latents stay valid.
"""

# B clips, N scenes of one story, P pixel frames, F latent frames, C channels, H W height and width (of pixels
# or of latents)

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple, Self

import torch
from diffusers import AutoencoderKLCogVideoX
from pydantic import Field, model_validator
from torch import Tensor

from m2d.diffusion.noise import generator
from m2d.errors import InputError
from m2d.families.cogvideox.vae import spatial_compression, unscaled
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.puppet.clips import PsnrMeter, draw_corner
from m2d.puppet.training.fitting import Fit, FitRecipe
from m2d.puppet.training.predicted_stories import PredictedStories, PredictedStory, Predictor
from m2d.puppet.training.vae_widening import widened

HELD_OUT_SEED = 990_007
_NUM_HELD_OUT = 8


class VaeDecoderRecipe(FitRecipe):
    """The models whose latents the decoder learns from.

    Attributes:
        models: Models that share one VAE; steps alternate between them.
        num_stories: Stories per model; they are predicted once and kept in the run folder.
        changing: Share of the stories whose scenes change place or time.
        timesteps: First and last timestep that latents are noised to. With little noise the transformer makes
            small errors; with too much it predicts another film, for which there are no target frames.
        encoded_share: Share of the steps on the encoder's own latents.
        crop: Side of a decoded crop in pixels; None decodes whole pictures, as at generation: group norms
            then have the statistics of whole pictures.
        latent_frames: Latent frames of a scene that are decoded, from its first one; None decodes all. The
            decoder is causal, so later frames change nothing in earlier ones.
        block_out_channels: Channels per level, to widen the decoder before training; None keeps them.
        outline_weight: Extra weight of pixels around outlines in the loss.
        absolute_weight: Weight of the absolute error beside the squared one.
    """

    models: tuple[str, ...] = Field(min_length=1)
    num_stories: int = Field(ge=1)
    changing: float = Field(default=0.0, ge=0, le=1)
    timesteps: tuple[int, int]
    encoded_share: float = Field(ge=0, le=1)
    crop: int | None = Field(default=None, ge=8)
    crops_per_scene: int = Field(default=1, ge=1)
    latent_frames: int | None = Field(default=None, ge=1)
    block_out_channels: tuple[int, ...] | None = None
    outline_weight: float = Field(default=0.0, ge=0, le=1e6)
    absolute_weight: float = Field(default=0.05, ge=0, le=1e6)

    @model_validator(mode="after")
    def _check_timesteps(self) -> Self:
        first, last = self.timesteps
        if not 0 <= first <= last < 1000:
            raise ValueError(f"timesteps: got {first} to {last}; use two of 0 to 999, the smaller one first")
        if self.latent_frames is not None and self.latent_frames > 1 and self.latent_frames % 2 == 0:
            raise ValueError(f"latent_frames: got {self.latent_frames}; use an odd number")
        return self


class _Crops(NamedTuple):
    """Windows of one story's scenes: latents, the frames to decode them to, and the bands of outlines."""

    latents_BFCHW: Tensor
    frames_BPCHW: Tensor
    outlines_BP1HW: Tensor


def vae_decoder_fit(recipe: VaeDecoderRecipe, run: Path) -> Fit:
    """Return the decoder's training, for `run_fit`.

    Raises:
        CheckpointError: A model is missing or corrupt.
        InputError: The models have different VAEs, the crop does not fit them, or the VAE cannot be widened.
    """
    encoder = shared_vae(recipe.models)
    predictors = [Predictor.load(name) for name in recipe.models]
    _check_crop(recipe, encoder, predictors)
    stories, held_out = (
        [
            PredictedStories(
                predictor=predictor,
                vae=encoder,
                seed=seed,
                timesteps=recipe.timesteps,
                changing=recipe.changing,
                folder=run / folder / _short(name),
            )
            for name, predictor in zip(recipe.models, predictors, strict=True)
        ]
        for folder, seed in (("stories", recipe.seed), ("held-out", HELD_OUT_SEED))
    )
    # A copy for encoding, because training changes the decoder in place.
    vae = copy.deepcopy(encoder)
    if recipe.block_out_channels is not None:
        split = generator(recipe.seed, purpose="decoder widening")
        vae = widened(vae, recipe.block_out_channels, draw=split)
    vae.encoder.requires_grad_(False)

    def loss_at(step: int) -> Tensor:
        visit, model = divmod(step, len(stories))
        draw = generator(recipe.seed, purpose="decoder batch", step=step)
        story = stories[model].get(visit % recipe.num_stories)
        crops = _cut(story, recipe, vae, draw=draw)
        error_BPCHW = decoded(vae, crops.latents_BFCHW) - crops.frames_BPCHW
        # Some absolute error keeps the gradient of pixels that are nearly right.
        loss_BPCHW = error_BPCHW.square() + recipe.absolute_weight * error_BPCHW.abs()
        loss: Tensor = (loss_BPCHW * (1 + recipe.outline_weight * crops.outlines_BP1HW)).mean()
        return loss

    def evaluate(average: AutoencoderKLCogVideoX) -> dict[str, float]:
        return {
            f"{_short(name)}.{key}": value
            for name, unseen in zip(recipe.models, held_out, strict=True)
            for key, value in decoding_figures(average, unseen, count=_NUM_HELD_OUT).items()
        }

    return Fit(name="decoder", model=vae, loss_at=loss_at, evaluate=evaluate, run=run)


def _short(name: str) -> str:
    return Path(name).name.rpartition(":")[2]


@torch.no_grad()
def decoding_figures(
    vae: AutoencoderKLCogVideoX, stories: PredictedStories, *, count: int
) -> dict[str, float]:
    """Decode the first `count` stories; return the figures of `PsnrMeter` after `encoded.` and `made.`.

    `encoded` decodes the encoder's latents, `made` those that the model predicts from noised latents.
    """
    meters = {"encoded": PsnrMeter(), "made": PsnrMeter()}
    for index in range(count):
        story = stories.get(index)
        for kind, latents_NFCHW in (("encoded", story.encoded_NFCHW), ("made", story.predicted_NFCHW)):
            for scene in range(len(latents_NFCHW)):
                one = slice(scene, scene + 1)
                decoded_BPCHW = decoded(vae, latents_NFCHW[one]).clamp(-1, 1)
                # From -1..1 to the scale of 0..1.
                meters[kind].add(
                    decoded_BPCHW / 2,
                    story.frames_NPCHW[one] / 2,
                    story.actors_NP1HW[one],
                    story.outlines_NP1HW[one],
                )
    return {f"{kind}.{key}": value for kind, meter in meters.items() for key, value in meter.read().items()}


def decoded(vae: AutoencoderKLCogVideoX, latents_BFCHW: Tensor) -> Tensor:
    """Decode scaled latents to frames (BPCHW), about -1..1."""
    decoded_BCPHW: Tensor = vae.decode(unscaled(vae, latents_BFCHW).transpose(1, 2)).sample
    return decoded_BCPHW.transpose(1, 2)


def shared_vae(models: tuple[str, ...]) -> AutoencoderKLCogVideoX:
    """Load the VAE of the models. Raises: InputError if they have different ones."""
    vaes = [load_vae(resolve_model(name), device="cpu", dtype=torch.float32).module for name in models]
    first = vaes[0].state_dict()
    for name, other in zip(models[1:], vaes[1:], strict=True):
        weights = other.state_dict()
        if weights.keys() != first.keys() or not all(torch.equal(weights[key], first[key]) for key in first):
            raise InputError(f"models: {name} has another VAE than {models[0]}; train them one by one")
    vae: AutoencoderKLCogVideoX = vaes[0]
    return vae


def _check_crop(recipe: VaeDecoderRecipe, vae: AutoencoderKLCogVideoX, predictors: list[Predictor]) -> None:
    if recipe.crop is None:
        return
    compression = spatial_compression(vae)
    smallest = min(min(predictor.scene.height, predictor.scene.width) for predictor in predictors)
    if recipe.crop % compression or recipe.crop > smallest:
        raise InputError(
            f"crop: got {recipe.crop}; use a multiple of {compression}, the pixels per latent, "
            f"up to {smallest}, the models' smallest side"
        )


def _cut(
    story: PredictedStory, recipe: VaeDecoderRecipe, vae: AutoencoderKLCogVideoX, *, draw: torch.Generator
) -> _Crops:
    """Cut windows out of every scene, most often around an actor."""
    is_encoded = float(torch.rand((), generator=draw)) < recipe.encoded_share
    latents_NFCHW = story.encoded_NFCHW if is_encoded else story.predicted_NFCHW
    num_latent_frames = recipe.latent_frames or latents_NFCHW.shape[1]
    num_frames = (num_latent_frames - 1) * vae.config.temporal_compression_ratio + 1
    compression = spatial_compression(vae)
    rows_in_all, columns_in_all = latents_NFCHW.shape[-2:]
    side = None if recipe.crop is None else recipe.crop // compression
    sides = side or rows_in_all, side or columns_in_all
    rooms = rows_in_all - sides[0], columns_in_all - sides[1]
    crops = []
    for scene in range(len(latents_NFCHW)):
        pixels = story.actors_NP1HW[scene, :, 0].amax(0).nonzero()
        for _ in range(recipe.crops_per_scene):
            corner = draw_corner(rooms, pixels // compression, side=sides, draw=draw)
            rows, columns = (slice(at, at + side) for at, side in zip(corner, sides, strict=True))
            high, wide = (
                slice(span.start * compression, span.stop * compression) for span in (rows, columns)
            )
            crops.append(
                _Crops(
                    latents_NFCHW[scene, :num_latent_frames, :, rows, columns],
                    story.frames_NPCHW[scene, :num_frames, :, high, wide],
                    story.outlines_NP1HW[scene, :num_frames, :, high, wide],
                )
            )
    return _Crops(*(torch.stack(parts) for parts in zip(*crops, strict=True)))
