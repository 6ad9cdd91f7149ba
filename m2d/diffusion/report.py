"""What a run of the denoising loop tells of itself when it is done; changes nothing in the latents."""

from __future__ import annotations

from dataclasses import dataclass

from m2d.diffusion.step_cache import SpeedReport


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoiseReport:
    """How the latents came about.

    Attributes:
        context_bytes: Memory of the context that was computed once; 0 when none was.
        speed: What was left out; None when every step was computed.
    """

    context_bytes: int = 0
    speed: SpeedReport | None = None
