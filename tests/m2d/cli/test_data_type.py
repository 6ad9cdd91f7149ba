"""What a command computes in on a CPU that is fast in bfloat16."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2d.pipeline import planning
from tests.m2d.cli.conftest import Run


@pytest.fixture(autouse=True)
def fast_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "cpu_has_bfloat16", lambda: True)


def dtype_of(m2d: Run, *words: str) -> str:
    """The data type that `m2d check` plans."""
    result = m2d("check", "story.yaml", *words, "--json")
    assert result.exit_code == 0, result.stderr
    return str(json.loads(result.stdout)["backend"]["dtype"])


def test_films_are_made_in_bfloat16_unless_a_data_type_or_a_backend_is_named(m2d: Run) -> None:
    assert dtype_of(m2d) == "bfloat16"
    assert dtype_of(m2d, "--set", "backend.dtype=float32") == "float32"
    assert dtype_of(m2d, "--set", "backend.name=compile") == "float32"


@pytest.mark.parametrize(
    "words",
    [("verify", "--backend", "eager", "--steps", "1"), ("bench", "--pairs", "3")],
    ids=lambda words: words[0],
)
def test_backends_are_compared_in_what_all_can_compute_in(m2d: Run, words: tuple[str, ...]) -> None:
    result = m2d(words[0], "story.yaml", *words[1:])
    assert result.exit_code == 0, result.stderr
    assert "on cpu in float32" in result.stdout
    named = m2d(words[0], "story.yaml", *words[1:], "--dtype", "bfloat16")
    assert named.exit_code == 0, named.stderr
    assert "on cpu in bfloat16" in named.stdout


def test_a_film_keeps_what_it_was_made_in(
    m2d: Run, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = m2d("generate", "story.yaml", "--out", "a.mp4", "--quiet")
    assert made.exit_code == 0, made.stderr
    # A machine that is not fast in bfloat16.
    monkeypatch.setattr(planning, "cpu_has_bfloat16", lambda: False)
    model = ("--model", str(tiny_folder))
    again = m2d("reproduce", "a.mp4", *model, "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["differing_scenes"] == []
    longer = m2d("extend", "a.mp4", "--prompt", "Actor1 waves.", *model, "--out", "c.mp4")
    assert longer.exit_code == 0, longer.stderr
    runs = json.loads(m2d("inspect", "c.mp4", "--json").stdout)["provenance"]["runs"]
    assert [run["parameters"]["dtype"] for run in runs] == ["bfloat16", "bfloat16"]
