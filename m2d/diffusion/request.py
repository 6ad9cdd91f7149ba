"""The request to the denoising loop, and the checks that its parts fit each other."""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.step_cache import Speed
from m2d.layout import SceneLayout


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseRequest:
    """Everything that the latents depend on besides model and scheduler.

    Attributes:
        scene_seeds: One per scene; a scene's noise depends on its seed and its number alone.
        scene_numbers: Number of each scene in the film, ascending, so that a scene has the same noise in
            every window of a long film; None for 0 to N-1.
        latent_shape: (C, H, W) of one latent frame.
        prompt_embeds_BLD: Prompt embeddings of all scenes along L, B = 1.
        negative_embeds_BLD: Embeddings of the negative prompts, same shape; None if no target is guided.
        conditioning: Which scenes are given and which are denoised.
        context_latents_BFCHW: Clean latents of all scenes, B = 1; only context scenes are read. None without
            context.
        first_frames: Target scene (its index in the layout) -> clean latents (K, C, H, W) of its first latent
            frame, or of all those of its first token, which the result keeps. Before every step they are
            noised to the step's level, as RePaint does with known regions (arXiv 2201.09865, Eq. 8a), but
            always with the scene's initial noise. A model that was trained for it gets them clean instead.
        first_frames_are_clean: Whether the model was trained to be given clean first frames.
        images: Scene (its index in the layout) -> latents (1, I, H, W) of its first frame, as image-to-video
            models take them; for every scene of such a model, and empty for others.
        keep_context: Whether the denoiser computes clean context once if no step changes it and the denoiser
            can; this takes memory and gives the same latents up to rounding.
        speed: Step caching: how readily steps are extrapolated instead of computed; `exact` computes all.
        dtype: The model's dtype. Latents are always stepped in float32.

    Raises:
        ValueError: The parts do not fit each other.
    """

    layout: SceneLayout
    scene_seeds: tuple[int, ...]
    scene_numbers: tuple[int, ...] | None = None
    latent_shape: tuple[int, int, int]
    prompt_embeds_BLD: Tensor
    negative_embeds_BLD: Tensor | None = None
    conditioning: Conditioning
    context_latents_BFCHW: Tensor | None = None
    first_frames: Mapping[int, Tensor] = field(default_factory=dict)
    first_frames_are_clean: bool = False
    images: Mapping[int, Tensor] = field(default_factory=dict)
    guidance: GuidanceRule
    num_inference_steps: int
    keep_context: bool = True
    speed: Speed = "exact"
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        num_scenes = self.layout.num_scenes
        for name, count in (
            ("scene_seeds", len(self.scene_seeds)),
            ("scene_numbers", len(self.numbers)),
            ("conditioning", self.conditioning.num_scenes),
            ("guidance.scales", len(self.guidance.scales)),
        ):
            if count != num_scenes:
                raise ValueError(f"{name} is for {count} scenes, the layout has {num_scenes}")
        if self.conditioning.context and self.context_latents_BFCHW is None:
            raise ValueError(f"scenes {sorted(self.conditioning.context)} are context but have no latents")
        if self.is_guided and self.negative_embeds_BLD is None:
            raise ValueError(f"guidance scales {self.guidance.scales} need negative_embeds_BLD")
        if self.numbers[0] < 0 or list(self.numbers) != sorted(set(self.numbers)):
            raise ValueError(
                f"scene_numbers: got {self.numbers}; give each scene a different one from 0, ascending"
            )
        self._check_shapes()
        self._check_first_frames()

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of each scene in the film: `scene_numbers`, or 0 to N-1."""
        return tuple(range(self.layout.num_scenes)) if self.scene_numbers is None else self.scene_numbers

    @property
    def is_guided(self) -> bool:
        """Whether any target scene needs its negative prompt."""
        return self.guidance.enabled_for(self.conditioning.targets)

    def image_latents(self) -> Tensor | None:
        """Return the model's input beside all scenes' latents: (1, F, I, H, W), zeros but for images."""
        if not self.images:
            return None
        height, width = self.latent_shape[1:]
        channels = self.images[0].shape[1]
        beside = torch.zeros(1, self.latents_shape[1], channels, height, width, dtype=self.dtype)
        for scene, image_1CHW in self.images.items():
            beside[0, self.layout.frame_span(scene).start] = image_1CHW[0].to(self.dtype)
        return beside.to(self.device)

    @property
    def latents_shape(self) -> tuple[int, int, int, int, int]:
        """(1, F, C, H, W) of the whole story."""
        return (1, sum(self.layout.latent_frames), *self.latent_shape)

    def _check_first_frames(self) -> None:
        targets = self.conditioning.targets
        shape = (self.layout.frames_per_token, *self.latent_shape)
        for scene, frame_FCHW in self.first_frames.items():
            if scene not in targets:
                raise ValueError(
                    f"first_frames: scene {scene} is not a target; only {list(targets)} are denoised"
                )
            if tuple(frame_FCHW.shape) != shape:
                raise ValueError(
                    f"first_frames[{scene}] has shape {tuple(frame_FCHW.shape)}, one latent frame is {shape}"
                )
        if self.images and sorted(self.images) != list(range(self.layout.num_scenes)):
            raise ValueError(f"images: for scenes {sorted(self.images)}; give one for every scene")

    def _check_shapes(self) -> None:
        context = self.context_latents_BFCHW
        if context is not None and tuple(context.shape) != self.latents_shape:
            raise ValueError(
                f"context_latents_BFCHW has shape {tuple(context.shape)}, "
                f"the layout needs {self.latents_shape}"
            )
        for name in ("prompt_embeds_BLD", "negative_embeds_BLD"):
            embeds = getattr(self, name)
            if embeds is not None and tuple(embeds.shape[:2]) != (1, self.layout.num_text_tokens):
                raise ValueError(
                    f"{name} has shape {tuple(embeds.shape)}, the layout needs "
                    f"(1, {self.layout.num_text_tokens}, D)"
                )
