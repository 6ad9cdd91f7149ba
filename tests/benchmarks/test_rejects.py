from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.rejects import is_reached, measure


@pytest.mark.long
def test_forty_broken_videos_of_three_hundred_are_listed_and_the_training_goes_on(tmp_path: Path) -> None:
    result = measure(tmp_path, num_clips=300, num_broken=40)
    assert is_reached(result), result
