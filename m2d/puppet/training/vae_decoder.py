"""Training of the VAE's decoder on latents predicted by transformers, so that it corrects their errors.

A decoder trained on the encoder's latents alone shows the errors of a transformer's latents: frayed edges,
remains of other hats. Here latents are noised, a transformer predicts the clean latents, and the decoder
learns to decode them to the original frames. The encoder is frozen, so latents stay valid.
"""

# B clips, N scenes of one story, P pixel frames, F latent frames, C channels, H W height and width (of pixels
# or of latents), L text tokens, D text width

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import torch
from diffusers import AutoencoderKLCogVideoX
from pydantic import Field, model_validator
from torch import Tensor

from m2d.diffusion.noise import generator
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import InputError
from m2d.families.cogvideox.vae import CogVideoXVae, spatial_compression, unscaled
from m2d.families.family import TextEncoder
from m2d.families.loading import load_scheduler, load_text, load_transformer, load_vae
from m2d.families.source import ModelSource, resolve_model
from m2d.geometry import SceneGeometry
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel
from m2d.puppet.captions import plain_caption
from m2d.puppet.clips import PsnrMeter, draw_corner, render_batch
from m2d.puppet.render import Clip
from m2d.puppet.story import Story, sample_story
from m2d.puppet.training.fitting import Fit, FitRecipe

_HELD_OUT_SEED = 990_007
_NUM_HELD_OUT = 8


class VaeDecoderRecipe(FitRecipe):
    """The models whose latents the decoder learns from.

    Attributes:
        models: Models that share one VAE; steps alternate between them.
        timesteps: First and last timestep that latents are noised to. With little noise the transformer makes
            small errors; with too much it predicts another film, for which there are no target frames.
        encoded_share: Share of the steps on the encoder's own latents.
        crop: Side of a decoded crop in pixels.
    """

    models: tuple[str, ...] = Field(min_length=1)
    timesteps: tuple[int, int]
    encoded_share: float = Field(ge=0, le=1)
    crop: int = Field(ge=8)
    crops_per_scene: int = Field(ge=1)

    @model_validator(mode="after")
    def _check_timesteps(self) -> Self:
        first, last = self.timesteps
        if not 0 <= first <= last < 1000:
            raise ValueError(f"timesteps: got {first} to {last}; use two of 0 to 999, the smaller one first")
        return self


class StoryLatents(NamedTuple):
    """A rendered story (RGB in -1..1), its actors' mask, and scaled latents to decode its frames from."""

    frames_NPCHW: Tensor
    actors_NP1HW: Tensor
    latents_NFCHW: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """A model without its VAE, which predicts clean latents.

    Attributes:
        scene: Default size of its scenes.
    """

    source: ModelSource
    scene: SceneGeometry
    transformer: SceneModel
    text: TextEncoder
    schedule: VelocitySchedule

    @classmethod
    def load(cls, name: str) -> Self:
        """Load a model by its name. Raises: as `resolve_model`."""
        source = resolve_model(name)
        sizes = source.geometry
        transformer = load_transformer(source, device="cpu", dtype=torch.float32)
        return cls(
            source=source,
            scene=sizes.scene(
                num_frames=sizes.default_num_frames,
                height=sizes.default_height,
                width=sizes.default_width,
            ),
            transformer=transformer.eval().requires_grad_(False),
            text=load_text(source, device="cpu", dtype=torch.float32),
            schedule=VelocitySchedule.from_scheduler(load_scheduler(source)),
        )

    @torch.no_grad()
    def predicted(
        self, latents_NFCHW: Tensor, story: Story, *, timestep: int, draw: torch.Generator
    ) -> Tensor:
        """Noise a story's latents to a timestep; return the clean latents that the model predicts (NFCHW)."""
        num_scenes, num_frames = latents_NFCHW.shape[:2]
        layout = SceneLayout.build(
            self.source.mask,
            text_tokens=[self.source.geometry.max_text_tokens] * num_scenes,
            latent_frames=[num_frames] * num_scenes,
            tokens_per_frame=self.scene.tokens_per_frame,
        )
        prompts = [plain_caption(story, scene) for scene in story.scenes]
        # One prompt at a time, as at generation.
        embeds_BLD = torch.cat([self.text.encode([prompt]) for prompt in prompts], dim=1)
        x0_BFCHW = latents_NFCHW.flatten(0, 1)[None]
        timesteps_BF = torch.full(x0_BFCHW.shape[:2], timestep)
        noise_BFCHW = torch.randn(x0_BFCHW.shape, generator=draw)
        noisy_BFCHW = self.schedule.add_noise(x0_BFCHW, noise_BFCHW, timesteps_BF)
        velocity_BFCHW = self.transformer(
            noisy_BFCHW, embeds_BLD, torch.full((1, num_scenes), timestep), layout=layout
        )
        return self.schedule.x0(noisy_BFCHW, velocity_BFCHW, timesteps_BF).view_as(latents_NFCHW)


def vae_decoder_fit(recipe: VaeDecoderRecipe, run: Path) -> Fit:
    """Return the decoder's training, for `run_fit`.

    Raises:
        CheckpointError: A model is missing or corrupt.
        InputError: The models have different VAEs, or the crop does not fit them.
    """
    vae = _shared_vae(recipe.models)
    vae.encoder.requires_grad_(False)
    # A copy for encoding, because training changes the decoder in place.
    encoder = copy.deepcopy(vae)
    predictors = [Predictor.load(name) for name in recipe.models]
    _check_crop(recipe, vae, predictors)

    def loss_at(step: int) -> Tensor:
        predictor = predictors[step % len(predictors)]
        draw = generator(recipe.seed, purpose="decoder batch", step=step)
        made = _made(predictor, encoder, recipe, seed=recipe.seed, step=step, draw=draw)
        latents_BFCHW, frames_BPCHW = _cut(made, recipe, spatial_compression(vae), draw=draw)
        error_BPCHW = _decode(vae, latents_BFCHW) - frames_BPCHW
        # A little absolute error keeps the gradient of pixels that are nearly right.
        loss: Tensor = (error_BPCHW.square() + 0.05 * error_BPCHW.abs()).mean()
        return loss

    evaluate = partial(made_psnr, predictors=predictors, recipe=recipe)
    return Fit(name="decoder", model=vae, loss_at=loss_at, evaluate=evaluate, run=run)


@torch.no_grad()
def made_psnr(
    vae: AutoencoderKLCogVideoX, predictors: list[Predictor], recipe: VaeDecoderRecipe
) -> dict[str, float]:
    """Return PSNR in dB on held-out stories, by model: all pixels and those inside the actors' boxes.

    `encoded` decodes the encoder's latents, `made` those that the model predicts from noised latents.
    """
    figures: dict[str, float] = {}
    for name, predictor in zip(recipe.models, predictors, strict=True):
        for kind, share in (("encoded", 1.0), ("made", 0.0)):
            asked = recipe.model_copy(update={"encoded_share": share})
            psnr = PsnrMeter()
            for step in range(_NUM_HELD_OUT):
                draw = generator(recipe.seed, purpose="decoder held out", step=step)
                made = _made(predictor, vae, asked, seed=_HELD_OUT_SEED, step=step, draw=draw)
                for scene in range(predictor.source.geometry.num_scenes):
                    one = slice(scene, scene + 1)
                    decoded_BPCHW = _decode(vae, made.latents_NFCHW[one]).clamp(-1, 1)
                    # From -1..1 to the scale of 0..1.
                    psnr.add(decoded_BPCHW / 2, made.frames_NPCHW[one] / 2, made.actors_NP1HW[one])
            figures |= {f"{Path(name).name}.{kind}.{key}": value for key, value in psnr.read().items()}
    return figures


def _shared_vae(models: tuple[str, ...]) -> AutoencoderKLCogVideoX:
    vaes = [load_vae(resolve_model(name), device="cpu", dtype=torch.float32).module for name in models]
    first = vaes[0].state_dict()
    for name, vae in zip(models[1:], vaes[1:], strict=True):
        weights = vae.state_dict()
        if weights.keys() != first.keys() or not all(torch.equal(weights[key], first[key]) for key in first):
            raise InputError(f"models: {name} has another VAE than {models[0]}; train them one by one")
    return vaes[0]


def _check_crop(recipe: VaeDecoderRecipe, vae: AutoencoderKLCogVideoX, predictors: list[Predictor]) -> None:
    compression = spatial_compression(vae)
    smallest = min(min(predictor.scene.height, predictor.scene.width) for predictor in predictors)
    if recipe.crop % compression or recipe.crop > smallest:
        raise InputError(
            f"crop: got {recipe.crop}; use a multiple of {compression}, the pixels per latent, "
            f"up to {smallest}, the models' smallest side"
        )


def _made(
    predictor: Predictor,
    vae: AutoencoderKLCogVideoX,
    recipe: VaeDecoderRecipe,
    *,
    seed: int,
    step: int,
    draw: torch.Generator,
) -> StoryLatents:
    """Render a story and return it with the encoder's latents or those that the model predicts."""
    story = sample_story(seed=seed, index=step, num_scenes=predictor.source.geometry.num_scenes)
    batch = render_batch(
        [Clip(story, scene) for scene in story.scenes],
        num_frames=predictor.scene.num_frames,
        height=predictor.scene.height,
        width=predictor.scene.width,
    )
    frames_NPCHW = batch.frames_BPCHW * 2 - 1
    latents_NFCHW = CogVideoXVae(vae).encode_clips(frames_NPCHW)
    is_encoded = float(torch.rand((), generator=draw)) < recipe.encoded_share
    first, last = recipe.timesteps
    timestep = int(torch.randint(first, last + 1, (), generator=draw))
    if not is_encoded:
        latents_NFCHW = predictor.predicted(latents_NFCHW, story, timestep=timestep, draw=draw)
    return StoryLatents(frames_NPCHW, batch.actors_BP1HW, latents_NFCHW)


def _cut(
    made: StoryLatents, recipe: VaeDecoderRecipe, compression: int, *, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Cut windows out of every scene, most often around an actor: latents (BFCHW) and frames (BPCHW)."""
    side = recipe.crop // compression
    latents, frames = [], []
    for scene in range(len(made.latents_NFCHW)):
        height, width = made.latents_NFCHW.shape[-2:]
        pixels = made.actors_NP1HW[scene, :, 0].amax(0).nonzero()
        for _ in range(recipe.crops_per_scene):
            rooms = (height - side, width - side)
            corner = draw_corner(rooms, pixels // compression, side=(side, side), draw=draw)
            top, left = corner
            rows, columns = slice(top, top + side), slice(left, left + side)
            latents.append(made.latents_NFCHW[scene, :, :, rows, columns])
            rows, columns = (
                slice(start * compression, start * compression + recipe.crop) for start in corner
            )
            frames.append(made.frames_NPCHW[scene, :, :, rows, columns])
    return torch.stack(latents), torch.stack(frames)


def _decode(vae: AutoencoderKLCogVideoX, latents_BFCHW: Tensor) -> Tensor:
    decoded_BCPHW: Tensor = vae.decode(unscaled(vae, latents_BFCHW).transpose(1, 2)).sample
    return decoded_BCPHW.transpose(1, 2)
