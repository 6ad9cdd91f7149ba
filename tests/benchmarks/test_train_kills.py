from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.train_kills import NUM_KILLS, kill_often, prepare
from tests.m2d.model.tiny_model import build_tiny_model


@pytest.mark.long
@pytest.mark.parametrize("count", [1, pytest.param(NUM_KILLS, marks=pytest.mark.long)])
def test_a_training_killed_at_any_moment_resume_arguments_to_the_same_bits(
    tmp_path: Path, count: int
) -> None:
    prepared = prepare(tmp_path, model=str(build_tiny_model(tmp_path / "model")))
    kills = list(kill_often(prepared, tmp_path, count=count))
    assert [kill.wrong for kill in kills] == [()] * count
    assert sum(kill.num_runs for kill in kills) > count
