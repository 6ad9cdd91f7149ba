"""Backends that break their promise, each in one way that a hurried author could: the contract has to notice.

They are wrong copies of the example in `docs/backends.md`, which has to be importable.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from m2d_float64 import Float64Backend, Float64Denoiser
from torch import Tensor

from m2d.layout import SceneLayout


class _Changed(Float64Denoiser):
    """Makes of every call what its backend says."""

    def __init__(self, right: Float64Denoiser, wrong: Any) -> None:
        super().__init__(right._model, right.layout, right.targets)
        self._wrong = wrong

    def predict(self, *inputs: Tensor) -> Tensor:
        return self._wrong(super().predict, *inputs)


class Imprecise(Float64Backend):
    """Rounds as half precision does, whatever was asked for."""

    name: ClassVar[str] = "imprecise"

    def prepare(self, *asked: Any) -> Float64Denoiser:
        return _Changed(super().prepare(*asked), lambda predict, *inputs: predict(*inputs).bfloat16().float())


class Maskless(Float64Backend):
    """Lets every scene see every prompt."""

    name: ClassVar[str] = "maskless"

    def prepare(self, source: Any, layout: SceneLayout, options: Any) -> Float64Denoiser:
        full = SceneLayout.build(
            "full",
            text_tokens=[len(layout.text_span(scene)) for scene in range(layout.num_scenes)],
            latent_frames=layout.latent_frames,
            tokens_per_frame=layout.tokens_per_frame,
        )
        return super().prepare(source, full, options)


class OneTimestep(Float64Backend):
    """Gives all scenes the last one's timestep, as stock CogVideoX does."""

    name: ClassVar[str] = "one-timestep"

    def prepare(self, *asked: Any) -> Float64Denoiser:
        def wrong(predict: Any, latents: Tensor, embeds: Tensor, timesteps_BN: Tensor) -> Tensor:
            return predict(latents, embeds, timesteps_BN[:, -1:].expand_as(timesteps_BN))

        return _Changed(super().prepare(*asked), wrong)


class Overwriting(Float64Backend):
    """Answers out of one buffer, and scales the latents that it was given in place."""

    name: ClassVar[str] = "overwriting"

    def prepare(self, *asked: Any) -> Float64Denoiser:
        def wrong(predict: Any, latents_BFCHW: Tensor, *others: Tensor) -> Tensor:
            velocity = predict(latents_BFCHW, *others)
            latents_BFCHW.mul_(0.5)
            return velocity

        return _Changed(super().prepare(*asked), wrong)


class FallingBack(Float64Backend):
    """Takes the CPU for any device, and no notice of options."""

    name: ClassVar[str] = "falling-back"

    def unavailable_reason(self, device: str | None = None) -> str | None:
        del device

    def prepare(self, source: Any, layout: SceneLayout, options: Any) -> Float64Denoiser:
        return super().prepare(source, layout, replace(options, device="cpu", extra={}))


class Keeping(Float64Backend):
    """Never lets go of its weights."""

    name: ClassVar[str] = "keeping"

    def release(self) -> None:
        pass


class Unchecked(Float64Backend):
    """Leaves it to torch to find out that inputs are another layout's."""

    name: ClassVar[str] = "unchecked"

    def prepare(self, *asked: Any) -> Float64Denoiser:
        denoiser = super().prepare(*asked)

        class Trusting(Float64Denoiser):
            def predict(self, *inputs: Tensor) -> Tensor:
                velocity: Tensor = self._model(
                    *(tensor.double() for tensor in inputs[:2]),
                    inputs[2],
                    layout=self.layout,
                    targets=self.targets,
                )
                return velocity.float()

        return Trusting(denoiser._model, denoiser.layout, denoiser.targets)
