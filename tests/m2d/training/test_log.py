from __future__ import annotations

from pathlib import Path

import pytest

from m2d.errors import CheckpointError
from m2d.training.log import FILE, TrainingLog, read_log


def test_a_resumed_log_drops_the_steps_that_are_repeated(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, resumed_at=0)
    for step in (1, 2, 3):
        log.write("train", step=step, loss=0.5)
    TrainingLog(tmp_path, resumed_at=2)
    assert [event["step"] for event in read_log(tmp_path)] == [1, 2]


def test_a_line_that_was_cut_short_is_ignored(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"event": "train", "step": 1}\n{"event": "tra')
    assert len(read_log(tmp_path)) == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("\x00", "not JSON"),
        ("\u00e9", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "not an event with a step"),
        ('{"event": "train"}', "not an event with a step"),
        ('{"step": "1"}', "not an event with a step"),
    ],
    ids=["control", "not ASCII", "deep", "list", "no step", "step is text"],
)
def test_a_corrupt_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(f'{{"event": "train", "step": 1}}\n{line}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match=f"log.jsonl, line 2: {reason}"):
        read_log(tmp_path)
