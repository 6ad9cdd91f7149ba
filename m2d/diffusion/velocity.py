"""v-prediction, defined once for training and sampling.

Owns the algebra between x0, noise, noisy latents and velocity at a scheduler's noise levels; does not step a
sampler and does not draw noise.

With `alpha_t = sqrt(alphas_cumprod[t])` and `sigma_t = sqrt(1 - alphas_cumprod[t])` (Salimans and Ho,
arXiv 2202.00512, section 4 and appendix D):

    noisy    = alpha_t * x0    + sigma_t * noise
    velocity = alpha_t * noise - sigma_t * x0
    x0       = alpha_t * noisy - sigma_t * velocity

`alphas_cumprod` is the scheduler's own: shifted (`snr_shift_scale`) and rescaled to zero terminal SNR (Lin et
al., arXiv 2305.08891, algorithm 1) where its config says so. At the last timestep alpha is then 0, noisy
latents are pure noise, and of the usual predictions velocity and x0 alone determine x0.
"""

# T training timesteps, B batch, F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from m2d.diffusion.schedulers import SchedulerError


@dataclass(frozen=True, kw_only=True, slots=True)
class VelocitySchedule:
    """Signal and noise levels of every training timestep, and the algebra that uses them.

    Attributes:
        alpha_T: Signal level per timestep, float32, descending.
        sigma_T: Noise level per timestep, float32; `alpha_T**2 + sigma_T**2 == 1`.
    """

    alpha_T: Tensor
    sigma_T: Tensor

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Self:
        """Read the noise levels of a diffusers scheduler.

        Raises:
            SchedulerError: The scheduler has another prediction type, or no `alphas_cumprod`.
        """
        kind = type(scheduler).__name__
        prediction_type = scheduler.config.get("prediction_type")
        if prediction_type != "v_prediction":
            raise SchedulerError(
                f"{kind}.prediction_type: got {prediction_type!r}, m2d models predict velocity; "
                "set it to 'v_prediction' in scheduler/scheduler_config.json"
            )
        alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
        if alphas_cumprod is None:
            raise SchedulerError(f"{kind} has no alphas_cumprod, so its noise levels cannot be read")
        # float64 first: 1 - alphas_cumprod loses digits near the clean end.
        cumprod_T = alphas_cumprod.double()
        return cls(alpha_T=cumprod_T.sqrt().float(), sigma_T=(1 - cumprod_T).sqrt().float())

    @property
    def num_timesteps(self) -> int:
        """Number of training timesteps; valid timesteps are 0 to this minus 1."""
        return int(self.alpha_T.shape[0])

    def to(self, device: torch.device | str) -> VelocitySchedule:
        """Return the same schedule on `device`; timesteps and latents must be there too."""
        return VelocitySchedule(alpha_T=self.alpha_T.to(device), sigma_T=self.sigma_T.to(device))

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Mix clean latents with noise.

        Args:
            x0: Clean latents, such as BFCHW.
            noise: Standard normal noise of the same shape.
            timesteps: Integers whose shape is a prefix of x0's: (B,) for whole samples, (B, F) per frame.

        Returns:
            Noisy latents of x0's shape and dtype. At timestep 0 they still have a little noise, so clean
            context is not passed through this function.
        """
        alpha, sigma = self._levels(timesteps, x0)
        return alpha * x0 + sigma * noise

    def velocity(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the training target for noisy latents of `x0` and `noise`; arguments as for `add_noise`."""
        alpha, sigma = self._levels(timesteps, x0)
        return alpha * noise - sigma * x0

    def x0(self, noisy: Tensor, velocity: Tensor, timesteps: Tensor) -> Tensor:
        """Return the clean latents that a velocity implies; shapes as for `add_noise`."""
        alpha, sigma = self._levels(timesteps, noisy)
        return alpha * noisy - sigma * velocity

    def velocity_of(self, noisy: Tensor, x0: Tensor, timesteps: Tensor) -> Tensor:
        """Return the velocity that leads from noisy latents to `x0`; the inverse of `x0`, same shapes."""
        alpha, sigma = self._levels(timesteps, noisy)
        return (alpha * noisy - x0) / sigma

    def _levels(self, timesteps: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        if timesteps.shape != latents.shape[: timesteps.ndim]:
            raise ValueError(
                f"timesteps of shape {tuple(timesteps.shape)} are not a prefix of latents of shape "
                f"{tuple(latents.shape)}; give (B,) or (B, F)"
            )
        shape = timesteps.shape + (1,) * (latents.ndim - timesteps.ndim)
        alpha = self.alpha_T[timesteps].reshape(shape).to(latents.dtype)
        sigma = self.sigma_T[timesteps].reshape(shape).to(latents.dtype)
        return alpha, sigma
