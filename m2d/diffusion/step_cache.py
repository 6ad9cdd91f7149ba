"""Step caching: extrapolate the velocity of some steps instead of running the model; faster, but not exact.

Owns when a step is skipped and what replaces its velocity; the names of the speeds are the recipe's. It works
on the velocities that the loop gets, so it fits every backend, mask and conditioning, and a skipped step runs
no model at all. diffusers' caching hooks (FirstBlockCache and others) do not fit: they wrap single blocks and
keep one residual for all tokens, while the last block here returns the targets' tokens alone; and they keep
their state in the modules, where a journal cannot save it.

The extrapolated quantity is the clean estimate x0 = alpha * x - sigma * v, which changes slowly and nearly in
a straight line along a denoising path. The line through two computed estimates is continued to the step's
timestep; the step's latents and the continued estimate give the velocity.

Every computed step from the third on measures the error that extrapolation would have had there, per unit of
time. As TeaCache (arXiv 2411.19108) does with its own estimate, a step is skipped while that rate, multiplied
by the time since the last computed step, stays below a tolerance.
"""

# B batch, F latent frames of the targets, C latent channels, H W latent height and width

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import UnusableState
from m2d.saved_tensors import misfit

Speed = Literal["exact", "balanced", "fast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCacheRule:
    """When steps are skipped.

    Attributes:
        tolerance: Largest relative error that an extrapolated velocity is expected to have.
        max_in_a_row: Most steps skipped in a row; the next one is computed whatever its expected error.
    """

    tolerance: float
    max_in_a_row: int


STEP_CACHE_RULES: Mapping[Speed, StepCacheRule | None] = {
    "exact": None,
    "balanced": StepCacheRule(tolerance=0.05, max_in_a_row=3),
    "fast": StepCacheRule(tolerance=0.15, max_in_a_row=4),
}
"""None: every step is computed."""

_TRAINED_TIMESTEPS = 1000


class Estimate(NamedTuple):
    """Clean estimate of a computed step."""

    timestep: int
    x0_BFCHW: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class StepCacheReport:
    """How many steps were skipped, and the estimated error.

    Attributes:
        num_steps: Steps of the run.
        num_skipped: Steps whose velocity was extrapolated.
        errors: Relative error that extrapolation would have had at each computed step from the third on,
            against the model's velocity for the same latents. Skipped steps are closer to the last computed
            one, so their errors are expected to be smaller.
    """

    num_steps: Annotated[int, Field(ge=0)]
    num_skipped: Annotated[int, Field(ge=0)]
    errors: tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...]

    def to_json(self) -> str:
        """Serialize for `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read the output of `to_json`.

        Raises:
            ValueError: It is none.
        """
        report: Self = TypeAdapter(cls).validate_json(text)
        return report

    def __str__(self) -> str:
        text = f"skipped {self.num_skipped} of {self.num_steps} steps"
        if not self.errors:
            return text
        mean = sum(self.errors) / len(self.errors)
        return f"{text}; estimated error {mean:.1%}, at most {max(self.errors):.1%}"


class StepCache:
    """State of step caching in one run: the last computed estimates and the measured errors."""

    def __init__(self, rule: StepCacheRule, schedule: VelocitySchedule) -> None:
        """Begin without a computed step."""
        self._rule = rule
        self._schedule = schedule
        self._estimates: list[Estimate] = []
        self._rate = float("inf")
        self._num_steps = self._num_skipped = self._in_a_row = 0
        self._errors: list[float] = []

    def velocity(
        self, noisy_BFCHW: Tensor, timestep: int, *, compute: Callable[[], Tensor], is_last: bool
    ) -> Tensor:
        """Return a step's velocity, computed or extrapolated.

        Args:
            noisy_BFCHW: The targets' latents as the model would get them, float32.
            timestep: The step's timestep, lower than that of the step before.
            compute: Runs the model.
            is_last: Whether this is the last step, which is computed because no later step can correct it.
        """
        self._num_steps += 1
        if not is_last and self._is_skipped(timestep):
            self._num_skipped += 1
            self._in_a_row += 1
            return self._extrapolated(noisy_BFCHW, timestep)
        velocity_BFCHW = compute()
        if len(self._estimates) == 2:
            extrapolated_BFCHW = self._extrapolated(noisy_BFCHW, timestep)
            error = float((extrapolated_BFCHW - velocity_BFCHW).norm() / velocity_BFCHW.norm())
            self._errors.append(error)
            self._rate = error / self._since_last(timestep)
        x0_BFCHW = self._schedule.x0(noisy_BFCHW, velocity_BFCHW, self._timesteps(timestep, noisy_BFCHW))
        self._estimates = [*self._estimates[-1:], Estimate(timestep, x0_BFCHW)]
        self._in_a_row = 0
        return velocity_BFCHW

    def report(self) -> StepCacheReport:
        """Report the skipped steps so far."""
        return StepCacheReport(
            num_steps=self._num_steps, num_skipped=self._num_skipped, errors=tuple(self._errors)
        )

    def history(self) -> dict[str, Tensor]:
        """Return the state after this step as tensors by name, for `restore`."""
        numbers = [self._rate, self._num_steps, self._num_skipped, self._in_a_row]
        kept = {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "errors": torch.tensor(self._errors, dtype=torch.float64),
            "timesteps": torch.tensor([each.timestep for each in self._estimates]),
        }
        return kept | {f"x0_{index}": each.x0_BFCHW.clone() for index, each in enumerate(self._estimates)}

    def restore(
        self, history: Mapping[str, Tensor], *, timesteps: Sequence[int], shape: Sequence[int]
    ) -> None:
        """Continue from the state that `history` returned.

        Args:
            timesteps: Those of the steps so far, descending.
            shape: Of the targets' latents.

        Raises:
            UnusableState: The state belongs to a run without step caching, to other steps or other latents.
        """
        if "numbers" not in history:
            raise UnusableState("the state is of a run without step caching (speed exact)")
        # The rate, the first number, is infinite before it is measured.
        finite = history["numbers"].masked_fill(history["numbers"] == float("inf"), 0)
        _check({"numbers": finite}, "numbers", torch.float64, (4,))
        rate, *numbers = history["numbers"].tolist()
        num_steps, num_skipped, in_a_row = (int(number) if number < 1e9 else -1 for number in numbers)
        num_computed = num_steps - num_skipped
        if (
            num_steps != len(timesteps)
            or not 0 <= in_a_row <= num_skipped < max(num_steps, 1)
            or not rate >= 0
        ):
            raise UnusableState(
                f"step caching skipped {num_skipped} of {num_steps} steps, not of {len(timesteps)}"
            )
        _check(history, "errors", torch.float64, (max(num_computed - 2, 0),))
        _check(history, "timesteps", torch.int64, (min(num_computed, 2),))
        kept = history["timesteps"].tolist()
        places = [timesteps.index(each) for each in kept if each in timesteps]
        if (
            len(places) < len(kept)
            or places != sorted(set(places))
            or num_steps - 1 - in_a_row not in places[-1:]
        ):
            raise UnusableState(f"step caching computed the timesteps {kept}, which are not the run's")
        for index in range(len(kept)):
            _check(history, f"x0_{index}", torch.float32, shape)
        self._num_steps, self._num_skipped, self._in_a_row = num_steps, num_skipped, in_a_row
        self._rate, self._errors = rate, history["errors"].tolist()
        self._estimates = [Estimate(each, history[f"x0_{index}"]) for index, each in enumerate(kept)]

    def _is_skipped(self, timestep: int) -> bool:
        if len(self._estimates) < 2 or self._in_a_row >= self._rule.max_in_a_row:
            return False
        return self._rate * self._since_last(timestep) < self._rule.tolerance

    def _since_last(self, timestep: int) -> float:
        return (self._estimates[-1].timestep - timestep) / _TRAINED_TIMESTEPS

    def _extrapolated(self, noisy_BFCHW: Tensor, timestep: int) -> Tensor:
        earlier, last = self._estimates
        ahead = (last.timestep - timestep) / (earlier.timestep - last.timestep)
        x0_BFCHW = last.x0_BFCHW + ahead * (last.x0_BFCHW - earlier.x0_BFCHW)
        return self._schedule.velocity_of(noisy_BFCHW, x0_BFCHW, self._timesteps(timestep, noisy_BFCHW))

    @staticmethod
    def _timesteps(timestep: int, like: Tensor) -> Tensor:
        return torch.tensor([timestep], device=like.device)


def _check(history: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: Sequence[int]) -> None:
    problem = misfit(history.get(name), dtype=dtype, shape=shape)
    if problem:
        raise UnusableState(f"step caching's {name} {problem}")
