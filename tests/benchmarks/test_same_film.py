"""The benchmark that compares backends' films: what it runs, and what it keeps of the report."""

from __future__ import annotations

from pathlib import Path

from benchmarks.same_film import STORY, summarize, verify_command


def test_the_command_is_the_one_that_users_have() -> None:
    command = verify_command(STORY, device="cuda:1", dtype="bfloat16")
    assert command[1:5] == ["-m", "m2d", "verify", str(STORY)]
    assert command[5:] == ["--export", "--json", "--device", "cuda:1", "--dtype", "bfloat16"]


def test_single_steps_are_counted_and_left_out() -> None:
    report = {"all_same": False, "backends": [{"name": "onnx", "state": "differs", "steps": [{}, {}]}]}
    kept = summarize(report, story=Path("a/first-snow.yaml"), machine={"processor": "Some CPU"})
    assert kept == {
        "all_same": False,
        "backends": [{"name": "onnx", "state": "differs", "num_steps": 2}],
        "story": "first-snow.yaml",
        "machine": {"processor": "Some CPU"},
    }
