"""A model that stays loaded and turns stories into frames, in the manner of a diffusers pipeline."""

# P pixel frames, F latent frames, C channels, H W height and width

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from m2d.backend import Backend
from m2d.backend_checks import check_memory, memory_modes, require_available
from m2d.families.source import ModelSource, resolve_model
from m2d.pipeline.best_device import best_device
from m2d.pipeline.decoding import decode_matched
from m2d.pipeline.observer import Observer, WindowStep
from m2d.pipeline.pipeline_vae import VaeUse
from m2d.pipeline.placing import place
from m2d.pipeline.planning import plan_for_model
from m2d.pipeline.scenes import ScenePipeline
from m2d.pipeline.window import memory_of
from m2d.placement.modes import MemoryName
from m2d.progress import Clock, Reporter, SilentReporter
from m2d.recipe.loader import load_with_places
from m2d.recipe.model_choice import ModelChoice, with_choice
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.recipe.schema import Recipe
from m2d.recipe.story import Story
from m2d.registry import get_backend
from m2d.video.digests import array_digest, film_digest
from m2d.video.joining import shown_frames
from m2d.video.printable import counted
from m2d.video.sheet import strip_png


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOutput:
    """One generated scene.

    Attributes:
        prompt: The prompt that the model was given: setting first, actors described.
        frames_PHWC: All its frames, uint8 RGB, before a crossfade blends them with other scenes'.
        latents_FCHW: Its clean latents, float32 on the CPU.
    """

    prompt: str
    seed: int
    frames_PHWC: np.ndarray
    latents_FCHW: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StoryOutput:
    """A generated story.

    Attributes:
        frames: The film, uint8 RGB (P, H, W, 3), crossfades blended.
    """

    frames: np.ndarray
    scenes: tuple[SceneOutput, ...]
    fps: int

    @property
    def latents(self) -> tuple[Tensor, ...]:
        """The clean latents of every scene, (F, C, H, W) each."""
        return tuple(scene.latents_FCHW for scene in self.scenes)

    def _repr_png_(self) -> bytes:
        """Draw the first frame of every scene, as a notebook shows a story."""
        labels = [f"scene {number}" for number in range(1, len(self.scenes) + 1)]
        firsts = [scene.frames_PHWC[0] for scene in self.scenes]
        return strip_png(firsts, labels, title=f"{counted(len(self.frames), 'frame')} at {self.fps} fps")

    @property
    def frames_sha256(self) -> str:
        """Digest of all scenes' frames; equal to that of the film that `m2d.generate` makes of the story."""
        return film_digest([array_digest(scene.frames_PHWC) for scene in self.scenes])


class StoryPipeline:
    """Turns stories into frames. Text encoder, transformer and VAE stay loaded between calls.

    One pipeline runs one story at a time; use a pipeline for each thread. Pipelines share nothing.
    """

    def __init__(
        self,
        source: ModelSource,
        backend: Backend,
        *,
        device: str,
        dtype: str | None,
        reporter: Reporter,
        memory: MemoryName = "full",
        quantize: str = "none",
    ) -> None:
        """Take a model and a backend; `from_pretrained` finds both by name."""
        self.source = source
        self._overrides = Overrides(
            backend=backend.name, device=device, dtype=dtype, memory=memory, quantize=quantize
        )
        self._backend, self._device, self._reporter = backend, device, reporter
        self._scenes: ScenePipeline | None = None

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | ModelChoice,
        *,
        device: str | None = None,
        dtype: torch.dtype | str | None = None,
        backend: str = "eager",
        memory: MemoryName = "auto",
        quantize: str = "none",
        reporter: Reporter | None = None,
    ) -> Self:
        """Find a model and check its folder; its weights are read when the first story needs them.

        Args:
            model: `builtin:puppet`, `builtin:puppet-large`, a model folder in diffusers' layout, or the id
                of a model on a hub, which is downloaded unless it is in Hugging Face's cache. A `ModelChoice`
                also names its revision, its variant, and parts from elsewhere.
            device: `cpu`, `cuda` or `cuda:1`; None is the best one here.
            dtype: What text encoder and transformer compute in; the VAE computes in float32. None is the data
                type of the model's weights on a GPU, and float32 on a CPU, but bfloat16 for `eager` where the
                CPU is faster in it.
            backend: What runs the transformer.
            memory: Where weights wait while they are not used: `full`, `model-offload`, `group-offload` or
                `sequential`, each slower and smaller. `auto` is the fastest that fits the free memory with
                the first story; with `full`, all parts stay on the device.
            quantize: How the transformer's weights are stored: `none`, `fp8`, `int8` or a GGUF file.
            reporter: Receives stages, progress and warnings; None drops them.

        Raises:
            CheckpointError: The folder is missing or incomplete.
            BackendError: The backend is not installed, or cannot run here or on that device.
        """
        runner, device = get_backend(backend), device or best_device()
        require_available(runner, device)
        name = str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype
        reporter = reporter or SilentReporter()
        choice = model if isinstance(model, ModelChoice) else ModelChoice(model=str(model))
        source = resolve_model(choice, downloads=reporter)
        return cls(
            source, runner, device=device, dtype=name, reporter=reporter, memory=memory, quantize=quantize
        )

    def __call__(
        self,
        story: Recipe | Mapping[str, Any] | str | Path,
        *,
        seed: int | None = None,
        num_inference_steps: int | None = None,
        callback: Callable[[WindowStep], None] | None = None,
    ) -> StoryOutput:
        """Generate a story.

        The same story, seed, device, CPU threads, processor and versions give the frames of `m2d.generate`.

        Args:
            story: A `Story`, the fields of one, or the path of a recipe. Its `model` and `backend` fields are
                not used: the pipeline has its own.
            seed: The story's seed, instead of the recipe's.
            num_inference_steps: Denoising steps, instead of the recipe's.
            callback: Called after every step; an exception that it raises ends the call.

        Raises:
            RecipeError: The story is not one that this model can make.
            TooLittleMemory: The memory mode is to be chosen, and none fits.
            BackendError: The backend cannot run it, or predicts values that are not finite.
            DecodingError: There is too little memory to decode the frames.
        """
        plan = self._plan(story, seed=seed, num_inference_steps=num_inference_steps)
        check_memory(self._backend, memory=plan.memory, quantized=plan.quantized)
        if self._scenes is None:
            self._scenes, plan = self._open(plan)
        denoised = self._scenes.denoise([plan], observer=Observer(on_step=callback))
        return self._decoded(self._scenes, plan, denoised.latents_FCHW)

    def release(self) -> None:
        """Free the transformer; the next call loads it again."""
        if self._scenes is not None:
            self._scenes.release_transformer()

    def _open(self, plan: RunPlan) -> tuple[ScenePipeline, RunPlan]:
        """Choose the memory mode that holds from now on; return the pipeline, and the plan in that mode."""
        memory, vae = memory_of(plan), VaeUse()
        if plan.memory == "auto":
            # The recipe's own settings of the VAE are not used.
            asked = replace(plan, decode=vae.decode, vae_dtype="float32")
            modes = memory_modes(self._backend)
            found = place([asked], modes=modes, reporter=self._reporter, stays_loaded=True)
            if found is not None and found.choice.decode != "cpu":
                memory, vae = found.choice.memory, replace(vae, decode=found.choice.decode)
        self._overrides = replace(self._overrides, memory=memory)
        scenes = ScenePipeline(
            self.source,
            self._backend,
            device=self._device,
            clock=Clock(self._reporter),
            stays_loaded=True,
            vae=replace(vae, is_alone=memory != "full"),
        )
        return scenes, replace(plan, memory=memory)

    def _plan(
        self,
        story: Recipe | Mapping[str, Any] | str | Path,
        *,
        seed: int | None,
        num_inference_steps: int | None,
    ) -> RunPlan:
        places = None
        if isinstance(story, str | Path):
            loaded = load_with_places(Path(story), Recipe)
            recipe, places = loaded.value, loaded.places
        else:
            recipe = story if isinstance(story, Recipe) else Story(**story)
        overrides = replace(self._overrides, seed=seed, num_inference_steps=num_inference_steps)
        recipe = with_choice(recipe, self.source.choice)
        return plan_for_model(recipe, self.source, overrides=overrides, places=places)

    def _decoded(
        self, pipeline: ScenePipeline, plan: RunPlan, latents_FCHW: Mapping[int, Tensor]
    ) -> StoryOutput:
        decoder = pipeline.decoder()
        frames: list[np.ndarray] = []
        with pipeline.clock.stage("decode", total=len(plan.scenes)) as progress:
            for number, scene in enumerate(plan.scenes):
                before_PHWC = frames[-1] if frames and scene.match_colour else None
                look = decode_matched(decoder, latents_FCHW[number], scene=number, before_PHWC=before_PHWC)
                frames.append(look.frames_PHWC)
                progress.advance()
        overlaps = [*(scene.join.num_frames for scene in plan.scenes), 0]
        shown = [
            shown_frames(
                frames[number],
                before_PHWC=frames[number - 1] if number else None,
                opening=overlaps[number],
                closing=overlaps[number + 1],
            )
            for number in range(len(frames))
        ]
        scenes = tuple(
            SceneOutput(
                prompt=scene.prompt,
                seed=scene.seed or 0,
                frames_PHWC=frames[number],
                latents_FCHW=latents_FCHW[number],
            )
            for number, scene in enumerate(plan.scenes)
        )
        return StoryOutput(frames=np.concatenate(shown), scenes=scenes, fps=plan.fps)
