import pytest

from m2d.tasks.pairing import Comparison, Ratios, compare


def comparison(*, median: float, noise: tuple[float, float, float], pairs: int = 9) -> Comparison:
    return Comparison(
        ratios=Ratios(median=median, smallest=median, largest=median),
        noise=Ratios(median=noise[0], smallest=noise[1], largest=noise[2]),
        num_pairs=pairs,
        seconds=(1.0, 1.0),
    )


def test_runs_take_turns_and_the_baseline_frames_each_one() -> None:
    order: list[str] = []
    result = compare(lambda: order.append("a"), lambda: order.append("b"), num_pairs=3, num_warmups=1)
    assert "".join(order) == "ba" + "bab" * 3
    assert result.num_pairs == 3
    assert result.ratios.smallest <= result.ratios.median <= result.ratios.largest


@pytest.mark.parametrize(
    ("median", "noise", "verdict"),
    [
        (0.90, (1.0, 0.99, 1.01), "faster"),
        (1.10, (1.0, 0.99, 1.01), "slower"),
        (0.99, (1.02, 1.01, 1.03), "within the noise"),
        (0.97, (1.0, 0.7, 1.3), "within the noise"),
    ],
)
def test_no_difference_below_the_noise_is_claimed(
    median: float, noise: tuple[float, float, float], verdict: str
) -> None:
    assert comparison(median=median, noise=noise).verdict == verdict


def test_more_pairs_lower_the_noise_of_a_spread() -> None:
    few, many = (comparison(median=0.9, noise=(1.0, 0.9, 1.1), pairs=pairs).noise_floor for pairs in (9, 36))
    assert many == pytest.approx(few / 2)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="num_pairs: 2 is below 3"):
        compare(lambda: None, lambda: None, num_pairs=2)
