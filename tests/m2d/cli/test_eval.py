"""`m2d eval`: the report's folder to stdout, exit code 1 when videos are left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.m2d.cli.conftest import Run
from tests.m2d.cli.test_json import undocumented
from tests.m2d.video.grown_films import GENERATE, grown, write_grown


def test_films_are_measured_and_others_left_out(m2d: Run, folder: Path) -> None:
    write_grown(folder / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))
    result = m2d("eval", "walk.mp4", "--embedder", "none", "--out", "report")
    assert (result.exit_code, result.stdout) == (0, "report\n")
    assert re.search(r"smoothness .*larger is better", result.stderr)

    (folder / "text.mp4").write_bytes(b"hello")
    result = m2d("eval", ".", "--embedder", "none", "--out", "report", "--force", "--json", "--quiet")
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert [each["name"] for each in document["left_out"]] == ["text.mp4"]
    assert "warning: text.mp4: left out: " in result.stderr
    assert undocumented(document) == []


def test_options_without_effect_are_refused(m2d: Run) -> None:
    for options, message in (
        (["--embedder-model", "some"], "--embedder-model: auto reads no weights"),
        (["--watch", "--force"], "--force: steps that are evaluated stay"),
    ):
        result = m2d("eval", ".", "--out", "report", *options)
        assert result.exit_code == 2
        assert message in result.stderr


def test_scores_of_other_videos_name_the_networks_that_are_missing(m2d: Run, folder: Path) -> None:
    write_grown(folder / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))
    result = m2d("eval", "walk.mp4", "--embedder", "natural", "--out", "report")
    assert result.exit_code == 2
    assert "efficientnet" in result.stderr
    assert not (folder / "report").exists()
