from __future__ import annotations

import numpy as np
import pytest

from m2d.errors import InputError
from m2d.evaluation.frechet import frechet_distance, kernel_distance, set_distance


def features(count: int, *, seed: int, shift: float = 0.0, size: int = 24) -> np.ndarray:
    draw = np.random.default_rng(seed)
    # A decaying spectrum, as that of real features.
    return draw.normal(shift, 1.0, (count, size)) / np.sqrt(np.arange(1, size + 1))


@pytest.mark.parametrize("count", [12, 200])
def test_a_set_has_no_distance_from_itself(count: int) -> None:
    some = 30 * features(count, seed=0)
    assert frechet_distance(some, some) <= 1e-5


def test_frechet_distance_is_that_of_the_two_gaussians() -> None:
    draw = np.random.default_rng(3)
    first, second = draw.normal(0, 1, (9000, 3)), draw.normal(2, 3, (9000, 3))
    # |mean difference|^2 + sum of (difference of deviations)^2, for independent features.
    assert frechet_distance(first, second) == pytest.approx(3 * 4 + 3 * 4, rel=0.03)


def test_kernel_distance_is_unbiased() -> None:
    values = [kernel_distance(features(30, seed=2 * k), features(30, seed=2 * k + 1)) for k in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
    assert kernel_distance(features(30, seed=0), features(30, seed=1, shift=1.0)) > 5 * np.std(values)


def test_two_halves_of_one_distribution_are_as_far_apart_as_the_printed_floor() -> None:
    inside = 0
    for trial in range(20):
        both = features(200, seed=100 + trial)
        found = set_distance(both[:100], both[100:])
        own = set_distance(both, both).frechet_floor
        inside += own.low <= found.frechet <= own.high
    assert inside >= 17


def test_the_floor_of_fewer_clips_is_higher() -> None:
    few, many = (set_distance(each, each) for each in (features(20, seed=5), features(400, seed=5)))
    assert few.frechet_floor.value > 4 * many.frechet_floor.value


@pytest.mark.parametrize(
    ("count", "reference", "message"),
    [(9, 9, "9 clips.*at least 10"), (20, 30, "20 clips, its reference 30.*the same")],
)
def test_few_or_unequal_sets_are_refused(count: int, reference: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        set_distance(features(count, seed=0), features(reference, seed=1))
