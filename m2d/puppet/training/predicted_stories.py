"""Stories with the latents that transformers predict for them, computed once and kept on disk.

Owns noising, prediction and the files. `vae_decoder` trains and measures a decoder on them.
"""

# B clips, N scenes of one story, P pixel frames, F latent frames, C channels, H W height and width (of pixels
# or of latents), L text tokens, D text width

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self

import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors.torch import save
from torch import Tensor

from m2d.diffusion.noise import generator
from m2d.diffusion.velocity import VelocitySchedule
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.family import TextEncoder
from m2d.families.loading import load_scheduler, load_text, load_transformer
from m2d.families.source import ModelSource, resolve_model
from m2d.files import write_bytes
from m2d.geometry import SceneGeometry
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel
from m2d.puppet.captions import plain_caption
from m2d.puppet.clips import outline_bands, render_batch
from m2d.puppet.render import Clip
from m2d.puppet.story import Story, sample_story
from m2d.tensor_files import opened_tensors


class PredictedStory(NamedTuple):
    """A rendered story and two kinds of scaled latents to decode its frames from.

    Attributes:
        frames_NPCHW: RGB in -1..1.
        actors_NP1HW: 1 where an actor or its shadow is, else 0.
        outlines_NP1HW: 1 in a band around drawn outlines, else 0.
        encoded_NFCHW: Latents from the encoder.
        predicted_NFCHW: Latents that the model predicts after those of the encoder were noised.
    """

    frames_NPCHW: Tensor
    actors_NP1HW: Tensor
    outlines_NP1HW: Tensor
    encoded_NFCHW: Tensor
    predicted_NFCHW: Tensor


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictedStories:
    """The stories of one model; a story is always predicted from the same timestep and the same noise.

    Attributes:
        timesteps: First and last timestep that latents are noised to.
        changing: Share of the stories whose scenes change place or time.
        folder: Where stories are kept; None keeps none.
    """

    predictor: Predictor
    vae: AutoencoderKLCogVideoX
    seed: int
    timesteps: tuple[int, int]
    changing: float = 0.0
    folder: Path | None = None

    def get(self, index: int) -> PredictedStory:
        """Return story `index`, from its file if there is one.

        Raises:
            UnreadableFile: Its file is damaged.
            OutputError: Its file cannot be written.
        """
        if self.folder is None:
            return self.make(index)
        path = self.folder / f"{index:05d}.safetensors"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, save(_stored(self.make(index))))
        with opened_tensors(path, "pt") as file:
            return _restored({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118

    def make(self, index: int, *, encoded_NFCHW: Tensor | None = None) -> PredictedStory:
        """Render story `index`, encode it unless its latents are given, and predict."""
        story = sample_story(
            seed=self.seed,
            index=index,
            num_scenes=self.predictor.source.geometry.num_scenes,
            changing=self.changing,
        )
        clips = [Clip(story, scene) for scene in story.scenes]
        scene = self.predictor.scene
        size = {"num_frames": scene.num_frames, "height": scene.height, "width": scene.width}
        batch = render_batch(clips, **size)
        frames_NPCHW = batch.frames_BPCHW * 2 - 1
        if encoded_NFCHW is None:
            encoded_NFCHW = CogVideoXVae(self.vae).encode_clips(frames_NPCHW)
        draw = generator(self.seed, purpose="decoder story", step=index)
        first, last = self.timesteps
        timestep = int(torch.randint(first, last + 1, (), generator=draw))
        return PredictedStory(
            frames_NPCHW=frames_NPCHW,
            actors_NP1HW=batch.actors_BP1HW,
            outlines_NP1HW=outline_bands(clips, **size),
            encoded_NFCHW=encoded_NFCHW,
            predicted_NFCHW=self.predictor.predicted(encoded_NFCHW, story, timestep=timestep, draw=draw),
        )


def _stored(story: PredictedStory) -> dict[str, Tensor]:
    """Return the story in bytes and half precision."""
    return {
        "frames": ((story.frames_NPCHW + 1) * 127.5).round().to(torch.uint8),
        "actors": story.actors_NP1HW.to(torch.uint8),
        "outlines": story.outlines_NP1HW.to(torch.uint8),
        "encoded": story.encoded_NFCHW.half().contiguous(),
        "predicted": story.predicted_NFCHW.half().contiguous(),
    }


def _restored(tensors: dict[str, Tensor]) -> PredictedStory:
    floats = {name: tensor.float() for name, tensor in tensors.items()}
    return PredictedStory(
        frames_NPCHW=floats["frames"] / 127.5 - 1,
        actors_NP1HW=floats["actors"],
        outlines_NP1HW=floats["outlines"],
        encoded_NFCHW=floats["encoded"],
        predicted_NFCHW=floats["predicted"],
    )
