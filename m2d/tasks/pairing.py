"""Paired timing: two functions in turn in one process, and the ratio of their times.

Owns the order of the runs, the noise floor and what may be claimed; knows nothing of models. Milliseconds
move with the machine's load by half; ratios of neighbouring runs do not, and medians of these hold still.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Verdict = Literal["faster", "slower", "within the noise"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratios:
    """Ratios of neighbouring runs.

    Attributes:
        median: Of all pairs.
        smallest: Of any pair.
        largest: Of any pair.
    """

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratios:
        """Summarize."""
        return cls(median=statistics.median(values), smallest=min(values), largest=max(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A against B.

    Attributes:
        ratios: A's time over B's.
        noise: The same for B against itself, in the same run.
        num_pairs: Of each.
        seconds: Median times of A and of B; only their ratio means anything elsewhere.
    """

    ratios: Ratios
    noise: Ratios
    num_pairs: int
    seconds: tuple[float, float]

    @property
    def noise_floor(self) -> float:
        """How far the median of as many pairs of equal functions was from 1, or may be by their spread."""
        # A median is known to 1.25 standard errors; the range of some ten values spans 3 to 4 deviations.
        spread = (self.noise.largest - self.noise.smallest) / 3.5
        return float(max(abs(self.noise.median - 1), 1.25 * spread / self.num_pairs**0.5))

    @property
    def verdict(self) -> Verdict:
        """What may be said: no difference that is smaller than the noise."""
        if abs(self.ratios.median - 1) <= self.noise_floor:
            return "within the noise"
        return "faster" if self.ratios.median < 1 else "slower"


def compare(
    a: Callable[[], object],
    b: Callable[[], object],
    *,
    num_pairs: int = 9,
    num_warmups: int = 2,
    device: str = "cpu",
) -> Comparison:
    """Time A and B in turn, and B against itself in the same round.

    A round is B A B: its first two runs are a pair, its outer two are one of B against itself.

    Args:
        a: What is judged.
        b: What it is judged by.
        num_pairs: Rounds.
        num_warmups: Runs of each before the first round.
        device: Where they run; on `cuda` events are timed.

    Raises:
        ValueError: Fewer than 3 pairs.
    """
    if num_pairs < 3:
        raise ValueError(f"num_pairs: {num_pairs} is below 3, too few for a median")
    for _ in range(num_warmups):
        _timed(b, device), _timed(a, device)
    times_a, befores, afters = [], [], []
    for _ in range(num_pairs):
        befores.append(_timed(b, device))
        times_a.append(_timed(a, device))
        afters.append(_timed(b, device))
    rounds = list(zip(times_a, befores, afters, strict=True))
    return Comparison(
        ratios=Ratios.of([one / ((before + after) / 2) for one, before, after in rounds]),
        noise=Ratios.of([after / before for _, before, after in rounds]),
        num_pairs=num_pairs,
        seconds=(statistics.median(times_a), statistics.median(befores)),
    )


def _timed(run: Callable[[], object], device: str) -> float:
    if not device.startswith("cuda"):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]  # torch
    torch.cuda.synchronize(device)
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000
