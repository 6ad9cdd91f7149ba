"""Shares and means over stories, with intervals; knows nothing about what is counted.

The story is the unit of resampling: scenes of one story share cast, backdrop and noise, so treating them as
independent would make the intervals too narrow. Shapes: S stories, K resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Amounts = npt.NDArray[np.float64]

NUM_RESAMPLES = 4000
_COVERAGE = 0.95
_SEED = 2503
# Of Student's t, for 1, 2, ... degrees of freedom: two to nine stories.
_T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tally:
    """What was counted in each story; a figure is the sum of amounts over the sum of counts.

    Attributes:
        amounts_S: Per story, how many judgements were right, or the sum of what was measured.
        counts_S: Per story, how many judgements or measurements there were; may be 0.
        chance: The figure that a guess would have, if that is known.
    """

    amounts_S: Amounts
    counts_S: Amounts
    chance: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A share or a mean over all stories, with its 95 % interval.

    From 10 stories the interval is an expanded percentile bootstrap; below, Student's t with the jackknife's
    standard error, because resamples never leave the range of the stories.

    Attributes:
        value: NaN when there was nothing to count.
        low: NaN if one story alone was counted, as `high`.
        count: Judgements or measurements behind it.
        chance: The value that a guess would have, if that is known.
    """

    value: float
    low: float
    high: float
    count: int
    chance: float | None = None

    def as_json(self) -> dict[str, float | int | None]:
        """The figure for a JSON file, rounded to four digits; null where there is no number."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        rounded = {key: None if math.isnan(each) else round(each, 4) for key, each in numbers.items()}
        chance = {} if self.chance is None else {"chance": round(self.chance, 4)}
        return {**rounded, "count": self.count, **chance}


def figure_of(tally: Tally) -> Figure:
    """Turn a tally into its figure and interval."""
    is_counted_S = tally.counts_S > 0
    sums = _Sums.of(tally.amounts_S), _Sums.of(tally.counts_S)
    figure = _figure(*_each(_quotients, *sums), is_counted_S=is_counted_S, count=int(tally.counts_S.sum()))
    return replace(figure, chance=tally.chance)


def ratio_of(tally: Tally, reference: Tally) -> Figure:
    """Divide the figure of one tally by that of another on the same stories.

    Both are resampled together, so that what is hard about a story does not widen the interval.

    Raises:
        ValueError: The tallies have different numbers of stories.
    """
    if len(tally.counts_S) != len(reference.counts_S):
        raise ValueError(f"tallies of {len(tally.counts_S)} and {len(reference.counts_S)} stories")
    means = [
        _each(_quotients, _Sums.of(each.amounts_S), _Sums.of(each.counts_S)) for each in (tally, reference)
    ]
    return _figure(
        *_each(_quotients, *means),
        is_counted_S=(tally.counts_S > 0) & (reference.counts_S > 0),
        count=int(min(each.counts_S.sum() for each in (tally, reference))),
    )


class _Sums(NamedTuple):
    """A sum over all stories, over resamples of them, and over all but each."""

    whole: Amounts
    resampled_K: Amounts
    without_S: Amounts

    @classmethod
    def of(cls, values_S: Amounts) -> _Sums:
        return cls(values_S.sum(), _resampled(values_S), values_S.sum() - values_S)


def _each(function: Callable[[Amounts, Amounts], Amounts], first: _Sums, second: _Sums) -> _Sums:
    return _Sums(*(function(*pair) for pair in zip(first, second, strict=True)))


def _resampled(values_S: Amounts) -> Amounts:
    """Sums over stories drawn with replacement, shape (K,); the same stories for every tally of that size."""
    num_stories = len(values_S)
    draw = np.random.Generator(np.random.Philox(key=[_SEED, num_stories]))
    chosen_KS = draw.integers(num_stories, size=(NUM_RESAMPLES, num_stories))
    sums_K: Amounts = values_S[chosen_KS].sum(1)
    return sums_K


def _quotients(amounts: Amounts, counts: Amounts) -> Amounts:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(counts == 0, np.nan, np.divide(amounts, counts))


def _figure(
    whole: Amounts,
    resampled_K: Amounts,
    without_S: Amounts,
    *,
    is_counted_S: npt.NDArray[np.bool_],
    count: int,
) -> Figure:
    value, num_stories = float(whole), int(is_counted_S.sum())
    known_K = resampled_K[~np.isnan(resampled_K)]
    if math.isnan(value) or not len(known_K):
        return Figure(value=math.nan, low=math.nan, high=math.nan, count=count)
    if num_stories < 2:
        return Figure(value=value, low=math.nan, high=math.nan, count=count)
    if num_stories < 2 + len(_T_QUANTILES):
        spread = float(np.std(without_S[is_counted_S])) * math.sqrt(num_stories - 1)
        reach = _T_QUANTILES[num_stories - 2] * spread
        return Figure(value=value, low=value - reach, high=value + reach, count=count)
    tail = _tail(num_stories)
    low, high = np.quantile(known_K, [tail, 1 - tail])
    return Figure(value=value, low=float(low), high=float(high), count=count)


def _tail(num_stories: int) -> float:
    """Return the share of resamples outside each end of an interval.

    Resamples of few stories vary too little: plain percentiles cover the mean of 10 normal stories 91 % of
    the time. The expanded percentile interval corrects this with the quantile of Student's t (Hesterberg
    2015, "What Teachers Should Know About the Bootstrap", section 5.2), here by its expansion in
    1 / degrees of freedom.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + _COVERAGE) / 2)
    free = max(num_stories - 1, 1)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return normal.cdf(-t * math.sqrt((free + 1) / free))
