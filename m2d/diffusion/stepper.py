"""Steps one scene from noise to clean latents: its noise, its scheduler and the scheduler's history.

Owns the differences between diffusers schedulers (`step` signatures, input scaling, noise drawn while
stepping); does not call the model.
"""

# B batch, F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from diffusers import CogVideoXDPMScheduler
from torch import Tensor

from m2d.diffusion.noise import draw_noise, generator
from m2d.errors import UnusableState
from m2d.saved_tensors import misfit

# Attributes in which diffusers' multistep schedulers keep results of earlier steps.
_COUNTERS = ("lower_order_nums", "this_order", "_step_index")
_HISTORY = ("model_outputs", "timestep_list", "last_sample", *_COUNTERS)


class SceneStepper:
    """Steps the latents of one scene.

    Every scene has its own scheduler, so that its randomness and history do not depend on other scenes.
    """

    def __init__(self, scheduler: Any, *, seed: int, scene: int) -> None:
        """Copy `scheduler`, whose timesteps are set, for scene number `scene` of the film."""
        self._scheduler = copy.deepcopy(scheduler)
        self._seed = seed
        self._scene = scene
        self._timesteps = [int(timestep) for timestep in scheduler.timesteps]
        self._takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        self._previous_x0: Tensor | None = None

    def noise(self, shape: Sequence[int], *, device: torch.device | str) -> Tensor:
        """Draw the scene's initial noise: standard normal, float32 of `shape` (B, F, C, H, W)."""
        return draw_noise(shape, seed=self._seed, purpose="initial noise", scene=self._scene, device=device)

    def initial(self, shape: Sequence[int], *, device: torch.device | str) -> Tensor:
        """Draw the scene's noise at the scheduler's initial scale: float32 of `shape` (B, F, C, H, W)."""
        return _checked(self.noise(shape, device=device) * self._scheduler.init_noise_sigma)

    def noised(self, x0_BFCHW: Tensor, noise_BFCHW: Tensor, *, index: int) -> Tensor:
        """Noise clean latents to the level before a step, at the scheduler's scale.

        Args:
            x0_BFCHW: Clean latents, float32.
            noise_BFCHW: Standard normal noise of the same shape.
            index: The step, from 0; for the number of steps, the result is `x0_BFCHW` itself.
        """
        if index == len(self._timesteps):
            return x0_BFCHW
        timesteps_B = self._scheduler.timesteps[index : index + 1]
        return _checked(self._scheduler.add_noise(x0_BFCHW, noise_BFCHW, timesteps_B))

    def model_input(self, latents_BFCHW: Tensor, *, index: int) -> Tensor:
        """Scale the latents to the scale that the model expects; the identity for most schedulers."""
        timestep = self._scheduler.timesteps[index]
        return _checked(self._scheduler.scale_model_input(latents_BFCHW, timestep))

    def step(self, velocity_BFCHW: Tensor, latents_BFCHW: Tensor, *, index: int) -> Tensor:
        """Take step number `index`.

        Args:
            velocity_BFCHW: Predicted velocity, float32.
            latents_BFCHW: The latents before `model_input` scaled them, float32.
            index: From 0; steps are taken once each, ascending.

        Returns:
            Less noisy latents, float32; clean after the last step.
        """
        return self._stepped(velocity_BFCHW, latents_BFCHW, index=index)

    def _stepped(self, velocity_BFCHW: Tensor, latents_BFCHW: Tensor, *, index: int) -> Tensor:
        self._align_next_timestep(index)
        stream = generator(self._seed, purpose="sampler noise", step=index, scene=self._scene)
        timestep = self._scheduler.timesteps[index]
        if isinstance(self._scheduler, CogVideoXDPMScheduler):
            latents, self._previous_x0 = self._scheduler.step(
                velocity_BFCHW,
                self._previous_x0,
                timestep,
                self._scheduler.timesteps[index - 1] if index else None,
                latents_BFCHW,
                generator=stream,
            )
            return _checked(latents)
        keywords = {"generator": stream} if self._takes_generator else {}
        return _checked(self._scheduler.step(velocity_BFCHW, timestep, latents_BFCHW, **keywords).prev_sample)

    def history(self) -> dict[str, Tensor]:
        """Return the scheduler's state for later steps, as tensors by name; empty for most schedulers."""
        kept: dict[str, Any] = {name: getattr(self._scheduler, name, None) for name in _HISTORY}
        kept["previous_x0"] = self._previous_x0
        flat = {
            f"{name}.{index}": part
            for name, value in kept.items()
            for index, part in enumerate(value if isinstance(value, list) else [value])
        }
        return {name: torch.as_tensor(part) for name, part in flat.items() if part is not None}

    def restore(self, history: Mapping[str, Tensor], *, steps_done: int, shape: Sequence[int]) -> None:
        """Continue from the `history` of a stepper with the same scheduler and seed.

        Args:
            steps_done: Steps after which it was returned.
            shape: Of the latents.

        Raises:
            UnusableState: It is not of so many steps, or holds other shapes, types or values.
        """
        self._check(history, steps_done=steps_done, shape=shape)
        for name in _HISTORY:
            current = getattr(self._scheduler, name, None)
            if isinstance(current, list):
                parts = [history.get(f"{name}.{index}") for index in range(len(current))]
                setattr(self._scheduler, name, parts)
            elif f"{name}.0" in history:
                part = history[f"{name}.0"]
                setattr(self._scheduler, name, int(part) if name in _COUNTERS else part)
        self._previous_x0 = history.get("previous_x0.0")

    def _check(self, history: Mapping[str, Tensor], *, steps_done: int, shape: Sequence[int]) -> None:
        """Compare a history with one of as many steps on a single number: only the latents' values differ."""
        probe = SceneStepper(self._scheduler, seed=self._seed, scene=self._scene)
        zero_BFCHW = torch.zeros(1, 1, 1, 1, 1)
        for index in range(steps_done):
            probe._stepped(zero_BFCHW, zero_BFCHW, index=index)
        wanted = probe.history()
        extra = sorted(history.keys() - wanted.keys())
        if extra:
            raise UnusableState(f"the sampler has no {extra[0][:100]!r} after step {steps_done}")
        for name, tensor in wanted.items():
            found = history.get(name)
            problem = misfit(found, dtype=tensor.dtype, shape=shape if tensor.ndim else ())
            if found is not None and not problem and not tensor.ndim and found.item() != tensor.item():
                problem = f"is {found.item()}, not {tensor.item()}"
            if problem:
                raise UnusableState(f"the sampler's {name} after step {steps_done} {problem}")

    def _align_next_timestep(self, index: int) -> None:
        # DDIM and CogVideoX's schedulers use `timestep - num_train_timesteps // num_inference_steps` as the
        # next timestep, which is wrong if the division has a remainder, and may end before the latents are
        # clean (60 steps stop at timestep 0). Dividing by this fraction gives exactly the next timestep, and
        # changes nothing if the steps divide evenly. Schedulers with sigmas keep a table instead.
        following = self._timesteps[index + 1] if index + 1 < len(self._timesteps) else -1
        if not hasattr(self._scheduler, "sigmas"):
            stride = self._timesteps[index] - following
            self._scheduler.num_inference_steps = Fraction(
                int(self._scheduler.config.num_train_timesteps), stride
            )


def _checked(latents: Any) -> Tensor:
    if not isinstance(latents, Tensor):
        raise TypeError(f"the scheduler returned {type(latents).__name__} instead of latents")
    return latents.float()
