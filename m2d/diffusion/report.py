"""The report of a finished run of the denoising loop."""

from __future__ import annotations

from dataclasses import dataclass

from m2d.diffusion.step_cache import StepCacheReport


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseReport:
    """How the latents were computed.

    Attributes:
        context_bytes: Memory of the context that was computed once; 0 when there was none.
        speed: What step caching skipped; None when every step was computed.
    """

    context_bytes: int = 0
    speed: StepCacheReport | None = None
