from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.export_kills import NUM_KILLS, kill_often, prepare, traced_once
from tests.m2d.model.tiny_model import build_tiny_model


@pytest.mark.long
def test_graphs_are_the_same_after_kills_at_random_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path))
    with traced_once():
        prepared = prepare(tmp_path, model=str(build_tiny_model(tmp_path / "model")))
        kills = list(kill_often(prepared, tmp_path, count=NUM_KILLS))
    assert not [kill for kill in kills if kill.wrong]
    assert any(not kill.was_there for kill in kills)
