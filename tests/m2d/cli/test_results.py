"""What is shown of a film that was made fits into a few lines, however long the film is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from m2d.cli.results import report_film
from m2d.film.make import FilmResult
from m2d.joins import CUT, Join
from m2d.video.run_folder import run_folder_of
from tests.m2d.video.grown_films import grown

GENERATE: tuple[Any, Any] = ("generate", (((0, 1, 2), (0, 1, 2)),))


def shown(num_scenes: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    joins = dict.fromkeys(range(num_scenes), CUT) | {2: Join(kind="crossfade", num_frames=2)}
    provenance, _ = grown((GENERATE,), (0,) * num_scenes, joins=joins)
    film = folder / "walk.mp4"
    run_folder_of(film).mkdir(exist_ok=True)
    result = FilmResult(
        film=film,
        run_folder=run_folder_of(film),
        provenance=provenance,
        made=tuple(range(num_scenes)),
        size_bytes=1000,
        timings_s={},
    )
    report_film(result, began_s=0.0, quiet=False, as_json=False)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip().startswith("joins")]
    return line


def test_few_joins_are_told_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(4, tmp_path, capsys)
    assert (line.count("cut "), line.count("crossfade ")) == (2, 1)
    assert line.endswith("levels of colour jump")


def test_many_joins_are_counted_and_the_largest_jump_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = shown(12, tmp_path, capsys)
    assert "10 cut, 1 crossfade; colours jump by " in line
    assert " levels at most, into scene " in line
