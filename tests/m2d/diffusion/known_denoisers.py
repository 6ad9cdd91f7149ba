"""Denoisers whose exact answer is known, so that a sampler can be checked against theory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.layout import SceneLayout


@dataclass(kw_only=True)
class GaussianDenoiser:
    """The optimal model of data distributed as N(mean, spread**2), independently per latent value.

    With spread 0 every clean latent is `mean`. The prompt moves the mean: scene i's first embedding value is
    added to it, which makes guidance visible. Calls are recorded.
    """

    layout: SceneLayout
    schedule: VelocitySchedule
    mean_BFCHW: Tensor
    spread: float = 0.0
    targets: tuple[int, ...] = ()
    calls: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.targets = self.targets or tuple(range(self.layout.num_scenes))

    def predict(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        self.calls.append((latents_BFCHW.clone(), prompt_embeds_BLD.clone(), timesteps_BN.clone()))
        velocities = []
        for scene in self.targets:
            frames = self.layout.frame_span(scene).as_slice
            shift_B = prompt_embeds_BLD[:, self.layout.text_span(scene).start, 0]
            mean_BFCHW = self.mean_BFCHW[:, frames] + shift_B.reshape(-1, 1, 1, 1, 1)
            velocities.append(self._velocity(latents_BFCHW[:, frames], mean_BFCHW, timesteps_BN[:, scene]))
        return torch.cat(velocities, dim=1)

    def _velocity(self, noisy: Tensor, mean: Tensor, timesteps_B: Tensor) -> Tensor:
        alpha = self.schedule.alpha_T.double()[timesteps_B].reshape(-1, 1, 1, 1, 1)
        sigma = self.schedule.sigma_T.double()[timesteps_B].reshape(-1, 1, 1, 1, 1)
        noisy, mean = noisy.double(), mean.double()
        # Posterior mean of x0 given noisy = alpha * x0 + sigma * noise, then the velocity it implies.
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        x0 = mean + gain * (noisy - alpha * mean)
        return ((alpha * noisy - x0) / sigma).float()
