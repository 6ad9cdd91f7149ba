from __future__ import annotations

from benchmarks.training import Sizes, measure

TINY = Sizes(
    num_layers=1,
    num_heads=1,
    patch_size=2,
    batch_size=2,
    num_stories=20,
    latent_shape=(1, 4, 4, 4),
    text_shape=(4, 8),
)


def test_both_loops_step_and_are_compared() -> None:
    found = measure(TINY, num_pairs=3)
    assert found["plain_over_ours"] > 0
    assert 0 < found["data_share"] < 1
    assert 0 < found["mfu"] < 1
