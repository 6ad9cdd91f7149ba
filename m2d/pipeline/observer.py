"""What a pipeline reports while it runs, and the point from which it resumes. Imports no torch.

A callback that raises ends the run; a pipeline keeps nothing on disk and hears no signal by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from m2d.recipe.plan import WindowPlan

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.diffusion.denoise import DenoiseState, StepEvent
    from m2d.diffusion.step_cache import StepCacheReport


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowStep:
    """One finished denoising step of window `index` of the run, from 0."""

    index: int
    part: WindowPlan
    event: StepEvent

    @property
    def is_last(self) -> bool:
        """Whether the window is finished with this step."""
        return self.event.step == self.event.total


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedWindow:
    """The scenes that a window made.

    Attributes:
        latents_FCHW: Scene of the film, from 0, to its clean latents, float32 on the CPU.
        speed: What step caching skipped; None when every step was computed.
    """

    index: int
    latents_FCHW: Mapping[int, Tensor]
    speed: StepCacheReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumePoint:
    """What an earlier, interrupted run of the same plans finished.

    Attributes:
        windows: Its finished windows, from the first on without a gap.
        state: The state between two steps of the window after these; None starts it at its first step.
    """

    windows: Sequence[FinishedWindow] = ()
    state: DenoiseState | None = None


def never_stop() -> None:
    """Let the run continue."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Observer:
    """Callbacks of a run.

    Attributes:
        check_stop: Called between two units of work; it raises to end the run there.
    """

    on_step: Callable[[WindowStep], None] | None = None
    on_window: Callable[[FinishedWindow], None] | None = None
    check_stop: Callable[[], None] = never_stop


SILENT = Observer()
