from __future__ import annotations

import math

import numpy as np
import pytest

from m2d.evaluation.intervals import Figure, Tally, figure_of, ratio_of


def tally(amounts: list[float], counts: list[float]) -> Tally:
    return Tally(amounts_S=np.array(amounts), counts_S=np.array(counts))


def test_stories_weigh_as_much_as_they_were_counted() -> None:
    figure = figure_of(tally([1.0, 0.0], [1.0, 3.0]))
    assert (figure.value, figure.count) == (0.25, 4)


def test_equal_stories_leave_no_doubt() -> None:
    assert figure_of(tally([2.0] * 9, [3.0] * 9)) == Figure(value=2 / 3, low=2 / 3, high=2 / 3, count=27)


def test_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    draw = np.random.default_rng(0)
    figure = figure_of(tally(draw.normal(1.0, 0.5, 400).tolist(), [1.0] * 400))
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(400), rel=0.12)


@pytest.mark.parametrize("num_stories", [2, 3, 5, 9, 10, 50])
def test_intervals_cover_the_truth_95_percent_of_the_time(num_stories: int) -> None:
    draw = np.random.default_rng(num_stories)
    figures = [
        figure_of(tally(draw.normal(1.0, 0.5, num_stories).tolist(), [1.0] * num_stories)) for _ in range(500)
    ]
    covered = sum(figure.low <= 1.0 <= figure.high for figure in figures) / len(figures)
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("num_stories", [3, 6])
def test_a_few_stories_of_unequal_weight_cover_the_truth(num_stories: int) -> None:
    draw = np.random.default_rng(num_stories)
    figures = []
    for _ in range(500):
        counts = draw.integers(2, 5, num_stories).astype(np.float64)
        figures.append(
            figure_of(tally((draw.normal(1.0, 0.5, num_stories) * counts).tolist(), counts.tolist()))
        )
    covered = sum(figure.low <= 1.0 <= figure.high for figure in figures) / len(figures)
    assert covered == pytest.approx(0.95, abs=0.03)


def test_one_story_has_no_interval() -> None:
    figure = figure_of(tally([0.0, 3.0], [0.0, 4.0]))
    assert (figure.value, figure.as_json()["low"], figure.as_json()["high"]) == (0.75, None, None)


def test_equal_tallies_give_equal_intervals() -> None:
    some = tally([0.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert figure_of(some) == figure_of(some)


def test_ratio_resamples_both_sides_together() -> None:
    # Stories differ a hundredfold, yet each is half of its reference.
    reference = [1.0, 10.0, 100.0, 3.0]
    figure = ratio_of(tally([each / 2 for each in reference], [1.0] * 4), tally(reference, [1.0] * 4))
    assert (figure.value, figure.low, figure.high) == pytest.approx((0.5, 0.5, 0.5))


def test_ratio_needs_the_same_stories() -> None:
    with pytest.raises(ValueError, match="tallies of 1 and 2 stories"):
        ratio_of(tally([1.0], [1.0]), tally([1.0, 1.0], [1.0, 1.0]))


def test_nothing_counted_is_no_number_and_null_in_json() -> None:
    figure = figure_of(tally([0.0, 0.0], [0.0, 0.0]))
    assert math.isnan(figure.value)
    assert figure.as_json() == {"value": None, "low": None, "high": None, "count": 0}


def test_ratio_to_nothing_is_no_number() -> None:
    assert math.isnan(ratio_of(tally([1.0], [1.0]), tally([0.0], [1.0])).value)
