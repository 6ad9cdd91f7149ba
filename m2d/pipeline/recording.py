"""A backend that records its calls and answers, so that another one can be asked the same."""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions, ContextDenoiser, Denoiser
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.pipeline.graphs import GraphRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call of `Denoiser.predict` and its answer, on the CPU."""

    preparation: GraphRequest
    latents_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor
    velocity_BFCHW: Tensor

    @property
    def timestep(self) -> int:
        """Of the targets; context has 0."""
        return int(self.timesteps_BN.max())

    def ask(self, denoiser: Denoiser) -> Tensor:
        """Return the velocity that another denoiser predicts for the same inputs, on the CPU."""
        device = self.preparation.options.device
        return denoiser.predict(
            self.latents_BFCHW.to(device), self.prompt_embeds_BLD.to(device), self.timesteps_BN.to(device)
        ).cpu()


class Respondent:
    """Repeats recorded calls on a denoiser as the denoising loop would: with clean context computed once."""

    def __init__(self, denoiser: Denoiser, *, keep_context: bool) -> None:
        self._denoiser = denoiser
        self._keeps = keep_context
        self._kept: list[tuple[Tensor, Denoiser]] = []

    @property
    def context_bytes(self) -> int:
        """Size of the kept context; 0 if none is kept."""
        denoisers = [denoiser for _, denoiser in self._kept]
        return sum(each.context_bytes for each in denoisers if isinstance(each, ContextDenoiser))

    def answer(self, call: Call) -> Tensor:
        """Return the velocity of a call, on the CPU."""
        return call.ask(self._denoiser_for(call))

    def _denoiser_for(self, call: Call) -> Denoiser:
        options, denoiser = call.preparation.options, self._denoiser
        # Without targets there is no context.
        if not self._keeps or options.targets is None or not isinstance(denoiser, ContextDenoiser):
            return denoiser
        # Guidance in two passes has two kinds of prompts, each with a context of its own.
        for prompts_BLD, kept in self._kept:
            if torch.equal(prompts_BLD, call.prompt_embeds_BLD):
                return kept
        inputs = (call.latents_BFCHW.to(options.device), call.prompt_embeds_BLD.to(options.device))
        keeping = denoiser.keep_context(*inputs, targets=options.targets)
        self._kept.append((call.prompt_embeds_BLD, keeping))
        return keeping


class RecordingBackend:
    """Runs another backend and records its calls; its denoisers keep no context. See `Backend`."""

    name: ClassVar[str] = "recording"

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.calls: list[Call] = []

    def unavailable_reason(self, device: str | None = None) -> str | None:
        return self._backend.unavailable_reason(device)

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        preparation = GraphRequest(source=source, layout=layout, options=options)
        return _RecordingDenoiser(self._backend.prepare(source, layout, options), preparation, self.calls)

    def release(self) -> None:
        self._backend.release()


class _RecordingDenoiser:
    def __init__(self, denoiser: Denoiser, preparation: GraphRequest, calls: list[Call]) -> None:
        self.layout, self.targets = denoiser.layout, denoiser.targets
        self._denoiser, self._preparation, self._calls = denoiser, preparation, calls

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        velocity_BFCHW = self._denoiser.predict(latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        self._calls.append(
            Call(
                preparation=self._preparation,
                latents_BFCHW=latents_BFCHW.cpu(),
                prompt_embeds_BLD=prompt_embeds_BLD.cpu(),
                timesteps_BN=timesteps_BN.cpu(),
                velocity_BFCHW=velocity_BFCHW.cpu(),
            )
        )
        return velocity_BFCHW
