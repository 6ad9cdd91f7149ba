"""What a run takes where its recipe says nothing: the model's sampling, the device's data type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from m2d.recipe.backend_choice import BackendChoice, DtypeName
from m2d.recipe.schema import ResolvedSampling, Sampling

if TYPE_CHECKING:
    from m2d.families.source import ModelSource
    from m2d.model.settings import SamplingDefaults


def resolved_sampling(sampling: Sampling, defaults: SamplingDefaults) -> ResolvedSampling:
    """Fill in the model's defaults.

    Its scheduler and the course of its guidance belong to its guidance scale: a recipe that names a scale of
    its own has the folder's scheduler and constant guidance where it names no others.
    """
    chosen = sampling.model_dump()
    wanted = defaults.model_dump()
    if sampling.guidance_scale is not None:
        wanted |= {"scheduler": None, "dynamic_guidance": False}
    return ResolvedSampling(
        **chosen | {name: value for name, value in wanted.items() if chosen.get(name) is None}
    )


def dtype_of(
    backend: BackendChoice, source: ModelSource, device: str, cpu_dtype: DtypeName | None
) -> DtypeName:
    """Return what the run computes in: on a GPU the type of the weights, as few hold the double of them.

    Args:
        cpu_dtype: What `eager` computes in on a CPU; None is float32, as of all other backends.
    """
    if backend.dtype is not None:
        return backend.dtype
    if device != "cpu":
        return source.stored_dtype
    return "float32" if cpu_dtype is None or backend.name != "eager" else cpu_dtype
