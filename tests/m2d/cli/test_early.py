"""What is wrong with arguments and files is said before the libraries load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.m2d.cli.conftest import Run

HEAVY = [f"m2d.tasks.{name}" for name in ("generate", "extend", "reroll", "reproduce", "train", "puppet")]
HEAVY += [f"m2d.tasks.{name}" for name in ("export", "verify", "bench")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "none.yaml"], "none.yaml: no such file"),
        (["generate", "story.yaml", "--steps", "0"], "--steps: must be at least 1"),
        (["generate", "story.yaml", "--out", "none/x.mp4"], "the folder none does not exist"),
        (["generate", "story.yaml", "--out", "sub/"], "--out: 'sub' is no folder that exists, and does not"),
        (["extend", "none.mp4", "-p", "x"], "none.mp4: does not exist"),
        (["extend", "story.yaml", "-p", "x"], "story.yaml: "),
        (["extend", "none.mp4"], "--prompt: missing"),
        (["extend", "none.mp4", "-p", "x", "--out", "x.avi"], "--out: 'x.avi' does not end in .mp4"),
        (["extend", "none.mp4", "-p", "x", "--out", "taken.mp4"], "taken.mp4: exists already"),
        (["reroll", "none.mp4", "-s", "1"], "none.mp4: does not exist"),
        (["reproduce", "none.mp4"], "none.mp4: does not exist"),
        (["generate", "--from", "none.mp4"], "none.mp4: does not exist"),
        (["train", "none.yaml"], "none.yaml: no such file"),
        (["puppet", "train", "text", "none.yaml", "--out", "run"], "none.yaml: no such file"),
        (["export", "--backend", "onnx", "--recipe", "none.yaml"], "none.yaml: no such file"),
        (["verify", "none.yaml"], "none.yaml: no such file"),
        (["bench", "none.yaml"], "none.yaml: no such file"),
    ],
)
def test_a_mistake_is_reported_before_the_libraries_load(
    m2d: Run, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    Path("taken.mp4").write_bytes(b"")
    for name in HEAVY:
        # Importing it would fail.
        monkeypatch.setitem(sys.modules, name, None)
    result = m2d(*words)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert message in result.stderr.splitlines()[0]
