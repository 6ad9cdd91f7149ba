"""`m2d doctor`: it always answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.m2d.cli.conftest import Run


def test_devices_backends_model_and_versions_are_shown(m2d: Run) -> None:
    result = m2d("doctor")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "\u2713 eager on cpu" in lines
    assert any(line.startswith("\u2713 cpu ") for line in lines)
    assert any("builtin:puppet" in line for line in lines)
    assert any(line.startswith("torch 2.") for line in lines)


def test_the_json_report_gives_a_reason_for_everything_that_does_not_work(m2d: Run) -> None:
    report = json.loads(m2d("doctor", "--json").stdout)
    assert report["devices"][0]["name"] == "cpu"
    assert report["devices"][0]["problem"] is None
    eager = next(backend for backend in report["backends"] if backend["name"] == "eager")
    assert eager["problem_on"]["cpu"] is None
    assert eager["problem_on"].keys() == {device["name"] for device in report["devices"]}
    assert all(reason is None or reason for reason in eager["problem_on"].values())


def test_a_cache_that_cannot_be_used_is_shown_with_what_to_do(
    m2d: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "new" / "cache"))
    assert json.loads(m2d("doctor", "--json").stdout)["cache"]["problem"] is None
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "file"))
    result = m2d("doctor")
    assert result.exit_code == 0
    assert "cannot be read: Not a directory; change its permissions, or name another folder" in " ".join(
        result.stdout.split()
    )
