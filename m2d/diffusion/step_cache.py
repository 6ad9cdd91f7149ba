"""Steps whose velocity is foretold from earlier ones instead of computed: faster, and knowingly not exact.

Owns when a step may be left out and what takes its place; the speeds' names are the recipe's. Works on the
velocities the loop gets, so it fits every backend, mask and conditioning, and a skipped step costs nothing.
diffusers' hooks (FirstBlockCache and others) wrap single blocks: they take one residual for all tokens, where
the last block here gives the targets' alone, and keep their state in the modules, where no journal finds it.

What is foretold is the clean estimate x0 = alpha * x - sigma * v: along a denoising path it changes slowly,
and nearly in a straight line. Two computed estimates are continued to the step's timestep, and the velocity
that belongs to the continued one and to the latents of this step takes the place of the model's.

Whether it is left out, the run decides for itself: every computed step after the second shows how far off the
foretelling would have been, per unit of time. As TeaCache (arXiv 2411.19108) does with its own estimate, a
step is left out while that rate, over the time since the last computed step, stays below a tolerance.
"""

# B batch, F latent frames of the targets, C latent channels, H W latent height and width

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule

Speed = Literal["exact", "balanced", "fast"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedRule:
    """How much is left out.

    Attributes:
        tolerance: Largest relative error that a foretold velocity is expected to have.
        most_skipped: Steps left out in a row; then one is computed, whatever is expected.
    """

    tolerance: float
    most_skipped: int


SPEED_RULES: Mapping[Speed, SpeedRule | None] = {
    "exact": None,
    "balanced": SpeedRule(tolerance=0.05, most_skipped=3),
    "fast": SpeedRule(tolerance=0.15, most_skipped=4),
}
"""None computes every step."""

_TRAINED_TIMESTEPS = 1000


class Estimate(NamedTuple):
    """The clean estimate of a computed step."""

    timestep: int
    x0_BFCHW: Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class SpeedReport:
    """What a speed left out, and how wrong it was where that is known.

    Attributes:
        num_steps: Steps of the run.
        num_skipped: Steps whose velocity was foretold.
        errors: Relative error that the foretelling would have had at each computed step where there was one:
            measured against the model's own velocity for the same latents. Steps left out lie before these,
            closer to what was known, so that theirs are expected to be smaller.
    """

    num_steps: int
    num_skipped: int
    errors: tuple[float, ...]

    def to_json(self) -> str:
        """Write it down; `from_json` reads exactly this."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**(fields | {"errors": tuple(fields["errors"])}))

    def __str__(self) -> str:
        told = f"{self.num_skipped} of {self.num_steps} steps foretold"
        if not self.errors:
            return told
        mean = sum(self.errors) / len(self.errors)
        return f"{told}; where computed, that would have been {mean:.1%} off, at most {max(self.errors):.1%}"


class StepCache:
    """The memory of one run: its last computed estimates, and what is known of the foretelling."""

    def __init__(self, rule: SpeedRule, schedule: VelocitySchedule) -> None:
        """Begin with nothing computed."""
        self._rule = rule
        self._schedule = schedule
        self._estimates: list[Estimate] = []
        self._rate = float("inf")
        self._num_steps = self._num_skipped = self._in_a_row = 0
        self._errors: list[float] = []

    def velocity(
        self, noisy_BFCHW: Tensor, timestep: int, *, compute: Callable[[], Tensor], is_last: bool
    ) -> Tensor:
        """Return a step's velocity, computed or foretold.

        Args:
            noisy_BFCHW: The targets' latents as the model would get them, float32.
            timestep: Theirs; it falls from step to step.
            compute: Runs the model.
            is_last: Whether nothing follows that could make up for an error: the last step is computed.
        """
        self._num_steps += 1
        if not is_last and self._is_skipped(timestep):
            self._num_skipped += 1
            self._in_a_row += 1
            return self._foretold(noisy_BFCHW, timestep)
        velocity_BFCHW = compute()
        if len(self._estimates) == 2:
            self._learn(self._foretold(noisy_BFCHW, timestep), velocity_BFCHW, timestep)
        x0_BFCHW = self._schedule.x0(noisy_BFCHW, velocity_BFCHW, self._timesteps(timestep, noisy_BFCHW))
        self._estimates = [*self._estimates[-1:], Estimate(timestep, x0_BFCHW)]
        self._in_a_row = 0
        return velocity_BFCHW

    def report(self) -> SpeedReport:
        """Say what was left out so far."""
        return SpeedReport(
            num_steps=self._num_steps, num_skipped=self._num_skipped, errors=tuple(self._errors)
        )

    def history(self) -> dict[str, Tensor]:
        """What has to be kept to go on after this step, by name; `restore` takes it back."""
        numbers = [self._rate, self._num_steps, self._num_skipped, self._in_a_row]
        kept = {
            "numbers": torch.tensor(numbers, dtype=torch.float64),
            "errors": torch.tensor(self._errors, dtype=torch.float64),
            "timesteps": torch.tensor([each.timestep for each in self._estimates]),
        }
        return kept | {f"x0_{index}": each.x0_BFCHW.clone() for index, each in enumerate(self._estimates)}

    def restore(self, history: Mapping[str, Tensor]) -> None:
        """Go on where `history` was taken.

        Raises:
            ValueError: It is not one of a run at this speed.
        """
        if "numbers" not in history:
            raise ValueError("resume: the state has no memory of steps left out; it is of another speed")
        rate, *counts = history["numbers"].tolist()
        self._rate = rate
        self._num_steps, self._num_skipped, self._in_a_row = (int(count) for count in counts)
        self._errors = history["errors"].tolist()
        self._estimates = [
            Estimate(int(timestep), history[f"x0_{index}"])
            for index, timestep in enumerate(history["timesteps"].tolist())
        ]

    def _is_skipped(self, timestep: int) -> bool:
        if len(self._estimates) < 2 or self._in_a_row >= self._rule.most_skipped:
            return False
        return self._rate * self._since_last(timestep) < self._rule.tolerance

    def _since_last(self, timestep: int) -> float:
        return (self._estimates[-1].timestep - timestep) / _TRAINED_TIMESTEPS

    def _learn(self, foretold_BFCHW: Tensor, velocity_BFCHW: Tensor, timestep: int) -> None:
        error = float((foretold_BFCHW - velocity_BFCHW).norm() / velocity_BFCHW.norm())
        self._errors.append(error)
        self._rate = error / self._since_last(timestep)

    def _foretold(self, noisy_BFCHW: Tensor, timestep: int) -> Tensor:
        earlier, last = self._estimates
        ahead = (last.timestep - timestep) / (earlier.timestep - last.timestep)
        x0_BFCHW = last.x0_BFCHW + ahead * (last.x0_BFCHW - earlier.x0_BFCHW)
        return self._schedule.velocity_of(noisy_BFCHW, x0_BFCHW, self._timesteps(timestep, noisy_BFCHW))

    @staticmethod
    def _timesteps(timestep: int, like: Tensor) -> Tensor:
        return torch.tensor([timestep], device=like.device)
