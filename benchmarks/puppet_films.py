"""Makes puppet scenes in the ways that `benchmarks.quality` compares: generated, rendered, through the codec.

All give what the reader reads: RGB in 0..1, rounded to 8 bits as in a film. Generated scenes come from the
denoising loop, backend and codec that `m2d generate` runs.
"""

# B scenes, N scenes denoised together, P pixel frames, F latent frames, C channels, H W height and width,
# L text tokens, D width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.geometry import SceneGeometry
from m2d.layout import SceneLayout
from m2d.model.checkpoint import load_codec, load_text, read_scheduler_config
from m2d.model.codec import decode_scene, encode_scenes, from_pixels, to_pixels
from m2d.model.source import ModelSource
from m2d.puppet.attribute_classifier import Reader, Reading
from m2d.puppet.render import Clip, render_clips
from m2d.registry import get_backend

BACKEND = "eager"
_BATCH = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How scenes are generated.

    Attributes:
        num_inference_steps: Denoising steps.
        guidance_scale: Of every scene; the negative prompt is empty.
        scheduler: A name of `m2d.diffusion.schedulers`.
        device: Where everything runs, in float32.
    """

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    device: str


class SceneMaker:
    """A model folder, loaded once, that generates scenes of its default size."""

    def __init__(self, source: ModelSource, sampling: Sampling) -> None:
        self._source = source
        self._sampling = sampling
        self._backend = get_backend(BACKEND)
        self._scheduler = scheduler_from_config(read_scheduler_config(source), sampling.scheduler)
        self._text = load_text(source, device=sampling.device, dtype=torch.float32)
        self._codec = load_codec(source, device=sampling.device, dtype=torch.float32)

    def generate(self, prompts: Sequence[str], *, mask: str, seed: int) -> Tensor:
        """Generate scenes that are denoised together, one per prompt; frames_NPCHW."""
        layout = self._layout(len(prompts), mask=mask)
        denoiser = self._backend.prepare(self._source, layout, BackendOptions(device=self._sampling.device))
        latents_BFCHW = denoise(denoiser, self._scheduler, self._request(prompts, layout=layout, seed=seed))
        spans = [layout.frame_span(scene).as_slice for scene in range(layout.num_scenes)]
        return torch.stack([_decode(self._codec, latents_BFCHW[0, span]) for span in spans])

    def _layout(self, num_scenes: int, *, mask: str) -> SceneLayout:
        geometry, scene = self._source.geometry, default_scene(self._source)
        return SceneLayout.build(
            mask,
            text_tokens=[geometry.max_text_tokens] * num_scenes,
            latent_frames=[scene.num_latent_frames] * num_scenes,
            tokens_per_frame=scene.tokens_per_frame,
        )

    def _request(self, prompts: Sequence[str], *, layout: SceneLayout, seed: int) -> DenoiseRequest:
        geometry, scene, sampling = self._source.geometry, default_scene(self._source), self._sampling
        num_scenes = len(prompts)
        guidance = GuidanceRule(scales=(sampling.guidance_scale,) * num_scenes)
        empty_BLD = torch.cat([self._text.encode([""])] * num_scenes, dim=1)
        return DenoiseRequest(
            layout=layout,
            scene_seeds=(seed,) * num_scenes,
            latent_shape=(geometry.latent_channels, scene.latent_height, scene.latent_width),
            # One at a time, as `m2d generate` does: a prompt's embedding may depend on others in its batch.
            prompt_embeds_BLD=torch.cat([self._text.encode([prompt]) for prompt in prompts], dim=1),
            negative_embeds_BLD=empty_BLD if guidance.enabled else None,
            conditioning=Conditioning(num_scenes=num_scenes),
            guidance=guidance,
            num_inference_steps=sampling.num_inference_steps,
            device=sampling.device,
        )


def render_films(clips: Sequence[Clip], *, scene: SceneGeometry) -> Tensor:
    """Render scenes as the world draws them; frames_BPCHW."""
    frames_BPCHW = render_clips(
        list(clips), num_frames=scene.num_frames, height=scene.height, width=scene.width
    )
    return torch.stack([_readable(to_pixels(frames * 2 - 1)) for frames in frames_BPCHW])


def through_codec(codec: AutoencoderKLCogVideoX, frames_BPCHW: Tensor) -> Tensor:
    """Encode and decode scenes one by one: what a transformer without faults would make; frames_BPCHW."""
    return torch.stack(
        [_decode(codec, encode_scenes(codec, frames[None] * 2 - 1)[0]) for frames in frames_BPCHW]
    )


def read_films(reader: Reader, frames_BPCHW: Tensor) -> Reading:
    """Read any number of scenes."""
    readings = [reader.read(part) for part in torch.split(frames_BPCHW, _BATCH)]
    columns = readings[0].classes
    return Reading(
        classes={name: torch.cat([each.classes[name] for each in readings]) for name in columns},
        numbers=torch.cat([each.numbers for each in readings]),
    )


def default_scene(source: ModelSource) -> SceneGeometry:
    """The size of scene that the model makes by default."""
    geometry = source.geometry
    return geometry.scene(
        num_frames=geometry.default_num_frames, height=geometry.default_height, width=geometry.default_width
    )


def _decode(codec: AutoencoderKLCogVideoX, latents_FCHW: Tensor) -> Tensor:
    return _readable(decode_scene(codec, latents_FCHW))


def _readable(frames_PHWC: npt.NDArray[np.uint8]) -> Tensor:
    return (from_pixels(frames_PHWC) + 1) / 2
