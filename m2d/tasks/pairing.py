"""Paired timing: run two functions alternately in one process and compare their times.

Owns the order of the runs, the noise floor and the verdict. Absolute times vary by half with the machine's
load; ratios of neighbouring runs do not, and their medians are stable.
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
    """Median and range of the ratios of neighbouring runs."""

    median: float
    smallest: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Ratios:
        """Summarize ratios."""
        return cls(median=statistics.median(values), smallest=min(values), largest=max(values))


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Times of A against those of B.

    Attributes:
        ratios: A's time over B's.
        noise: B's time over B's, measured in the same rounds.
        num_pairs: Number of pairs.
        seconds: Median times of A and B; on other machines only their ratio is meaningful.
    """

    ratios: Ratios
    noise: Ratios
    num_pairs: int
    seconds: tuple[float, float]

    @property
    def noise_floor(self) -> float:
        """How far from 1 the median ratio of equal functions was, or may be given its spread."""
        # A median has 1.25 times the standard error of a mean; the range of ten values is 3 to 4 deviations.
        spread = (self.noise.largest - self.noise.smallest) / 3.5
        return float(max(abs(self.noise.median - 1), 1.25 * spread / self.num_pairs**0.5))

    @property
    def verdict(self) -> Verdict:
        """Which is faster; a difference smaller than the noise floor is none."""
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
    """Time A against B, and B against itself, in the same rounds.

    A round runs B, A, B: A is compared with the mean of both runs of B, and these with each other.

    Args:
        a: The function to judge.
        b: The reference.
        num_pairs: Number of rounds.
        num_warmups: Number of runs of each before the first round.
        device: Device of the functions; CUDA events time `cuda`.

    Raises:
        ValueError: `num_pairs` is below 3.
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
