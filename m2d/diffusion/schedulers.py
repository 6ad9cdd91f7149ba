"""The diffusers schedulers that m2d samples with, each with the model's own noise levels.

Owns scheduler names, their construction from a model folder's `scheduler_config.json` and the settings that
velocity prediction at zero terminal SNR needs. `stepper.py` runs them.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch

from m2d.errors import LIBRARY_ERRORS, InputError, first_line

# The name in recipes -> the diffusers class.
SCHEDULERS: Mapping[str, str] = MappingProxyType(
    {
        "ddim": "CogVideoXDDIMScheduler",
        "dpm": "CogVideoXDPMScheduler",
        "dpm++": "DPMSolverMultistepScheduler",
        "euler": "EulerDiscreteScheduler",
        "unipc": "UniPCMultistepScheduler",
    }
)
# Classes that a model folder may name; plain DDIM has no recipe name because "ddim" samples the same.
ALLOWED_CLASSES = frozenset(SCHEDULERS.values()) | {"DDIMScheduler"}
_COG_CLASSES = frozenset({"CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"})

# Setting -> its required value in every class that has the setting, and the reason.
_REQUIRED: Mapping[str, tuple[Any, str]] = MappingProxyType(
    {
        "prediction_type": ("v_prediction", "the models predict velocity"),
        "rescale_betas_zero_snr": (
            True,
            "sampling starts from pure noise, so the last timestep must be pure noise",
        ),
        "timestep_spacing": ("trailing", "other spacings never visit the last timestep"),
        "set_alpha_to_one": (True, "the last step must end at clean latents"),
        "final_sigmas_type": ("zero", "the last step must end at clean latents"),
        "clip_sample": (False, "latents are not confined to [-1, 1]"),
        "thresholding": (False, "latents are not confined to [-1, 1]"),
        "use_karras_sigmas": (False, "it leaves the integer timesteps the model was trained at"),
        "use_exponential_sigmas": (False, "it leaves the integer timesteps the model was trained at"),
        "use_beta_sigmas": (False, "it leaves the integer timesteps the model was trained at"),
        "use_lu_lambdas": (False, "it leaves the integer timesteps the model was trained at"),
        "use_flow_sigmas": (False, "the models were not trained with flow matching"),
        "interpolation_type": ("linear", "it leaves the integer timesteps the model was trained at"),
        "timestep_type": ("discrete", "it leaves the integer timesteps the model was trained at"),
    }
)
_SOLVERS = ("dpmsolver++", "sde-dpmsolver++")


class SchedulerError(InputError):
    """The scheduler is unknown, or its settings would sample wrongly."""


def scheduler_from_config(config: Mapping[str, Any], name: str | None = None) -> Any:
    """Build a diffusers scheduler that steps through the noise levels a model was trained with.

    Args:
        config: Content of a model folder's `scheduler/scheduler_config.json`, including `_class_name`.
        name: A key of `SCHEDULERS`; None takes the folder's class.

    Returns:
        A scheduler without timesteps. It has the folder's noise levels also when its class is another one:
        plain diffusers classes lack `snr_shift_scale`, so they get the resulting betas.

    Raises:
        SchedulerError: The name or class is unknown, or a setting would sample wrongly.
    """
    own_class = str(config.get("_class_name"))
    if own_class not in ALLOWED_CLASSES:
        raise SchedulerError(
            f"scheduler/scheduler_config.json: _class_name: got {own_class!r}, allowed: "
            + ", ".join(sorted(ALLOWED_CLASSES))
        )
    if name is not None and name not in SCHEDULERS:
        raise SchedulerError(f"scheduler: got {name!r}, allowed: {', '.join(SCHEDULERS)}")
    own = _construct(own_class, config)
    check_scheduler(own)
    _check_noise_levels(own)
    wanted_class = own_class if name is None else SCHEDULERS[name]
    if wanted_class == own_class:
        return own
    if {wanted_class, own_class} <= _COG_CLASSES:
        return _construct(wanted_class, own.config)
    return _construct(wanted_class, _transferred_config(wanted_class, own))


def check_scheduler(scheduler: Any) -> None:
    """Reject settings that would sample wrongly from a velocity model with zero terminal SNR.

    Raises:
        SchedulerError: Lists every unsuitable setting with its value, the allowed value and the reason.
    """
    config = scheduler.config
    problems = [
        f"{key}: got {config[key]!r}, must be {wanted!r}: {reason}"
        for key, (wanted, reason) in _REQUIRED.items()
        # A flag may be stored as null, which diffusers treats as false.
        if key in config and config[key] != wanted and not (wanted is False and config[key] is None)
        # CogVideoX's classes have this setting (on by default) but ignore it.
        if not (key == "clip_sample" and type(scheduler).__name__ in _COG_CLASSES)
    ]
    algorithm = config.get("algorithm_type", _SOLVERS[0])
    if algorithm not in _SOLVERS:
        problems.append(f"algorithm_type: got {algorithm!r}, must be one of {', '.join(_SOLVERS)}")
    if config.get("predict_x0", True) is not True:
        problems.append(
            "predict_x0: got False, must be True: at the last timestep, noise alone does not determine x0"
        )
    if problems:
        kind = type(scheduler).__name__
        raise SchedulerError("\n".join(f"{kind}.{problem}" for problem in problems))


def _check_noise_levels(scheduler: Any) -> None:
    """Check that the signal's share falls from timestep to timestep, between 1 and 0."""
    # Sigma-based classes replace the last value, which would be zero, by a small one.
    cumprod_T = scheduler.alphas_cumprod
    is_sound = bool(torch.isfinite(cumprod_T).all()) and 0 < float(cumprod_T[0]) <= 1
    if not is_sound or float(cumprod_T.min()) < 0 or bool((cumprod_T[1:-1] > cumprod_T[:-2]).any()):
        raise SchedulerError(
            "scheduler/scheduler_config.json: the betas make noise levels that do not rise from 0 to 1; get "
            "the file from the model's own folder"
        )


def set_timesteps(scheduler: Any, num_inference_steps: int) -> None:
    """Spread steps over the noise levels, descending from the last timestep (pure noise).

    Args:
        scheduler: From `scheduler_from_config`; its `timesteps` stay on the CPU.
        num_inference_steps: From 1 to the number of training timesteps.

    Raises:
        SchedulerError: The number of steps is outside that range.
    """
    num_timesteps = int(scheduler.config.num_train_timesteps)
    if not 1 <= num_inference_steps <= num_timesteps:
        raise SchedulerError(f"num_inference_steps: got {num_inference_steps}, allowed: 1 to {num_timesteps}")
    scheduler.set_timesteps(num_inference_steps, device="cpu")
    # diffusers 0.42 counts down by a rounded ratio and makes one step too many for 62 of the 1000 numbers (61
    # is the first). That step's timestep is -1, which indexes the noisiest level: the film becomes noise.
    if len(scheduler.timesteps) > num_inference_steps:
        scheduler.timesteps = scheduler.timesteps[:num_inference_steps]
        scheduler.num_inference_steps = num_inference_steps
        if hasattr(scheduler, "sigmas"):
            scheduler.sigmas = torch.cat([scheduler.sigmas[:num_inference_steps], scheduler.sigmas[-1:]])


def with_timesteps(scheduler: Any, num_inference_steps: int) -> Any:
    """Return a copy of `scheduler` with its timesteps set. Raises as `set_timesteps` does."""
    prepared = copy.deepcopy(scheduler)
    set_timesteps(prepared, num_inference_steps)
    return prepared


def timesteps_of(scheduler: Any, num_inference_steps: int) -> tuple[int, ...]:
    """Return a run's timesteps, descending from the last one (pure noise). Raises as `set_timesteps` does."""
    return tuple(int(timestep) for timestep in with_timesteps(scheduler, num_inference_steps).timesteps)


def _construct(class_name: str, config: Mapping[str, Any]) -> Any:
    scheduler_class = getattr(importlib.import_module("diffusers"), class_name)
    settings = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        return scheduler_class.from_config(settings)
    except LIBRARY_ERRORS as error:
        raise SchedulerError(
            f"{class_name} cannot be built from its settings: {first_line(error)}"
        ) from error


def _transferred_config(wanted_class: str, own: Any) -> dict[str, Any]:
    """Return settings that give `wanted_class` the noise levels of the scheduler `own`."""
    cumprod_T = own.alphas_cumprod.double()
    # Both alphas are cumulative products: the ratio of neighbours is 1 - beta.
    betas = [float(1 - cumprod_T[0]), *(1 - cumprod_T[1:] / cumprod_T[:-1]).tolist()]
    config: dict[str, Any] = {
        "num_train_timesteps": int(own.config.num_train_timesteps),
        "trained_betas": betas,
        "prediction_type": "v_prediction",
        # The betas already end at zero SNR, so rescaling changes nothing; but with it the sigma-based classes
        # replace the infinite last sigma by 4096.
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    if wanted_class in _COG_CLASSES:
        return config | {"snr_shift_scale": 1.0, "set_alpha_to_one": True}
    return config | {"final_sigmas_type": "zero"}
