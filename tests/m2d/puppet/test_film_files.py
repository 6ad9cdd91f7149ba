"""Long films and their truth: what a run finds is kept, refused or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from m2d.errors import OutputError
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.stop import StopRequest


def render(plan: FilmPlan) -> list[Path]:
    return render_films(plan, SilentReporter(), StopRequest())


def test_an_interrupted_run_is_repeated_to_its_end_and_other_films_are_not_replaced(tmp_path: Path) -> None:
    plan = FilmPlan(out=tmp_path, num_films=2, minutes=0.1, fps=2)
    films = render(plan)
    before = [film.read_bytes() for film in films]
    truth = tmp_path / "puppet-1-1.captions.json"
    # Interrupted before the second film had its name, and before its truth had.
    for gone in ([films[1]], [films[1], truth]):
        for path in gone:
            path.unlink()
        assert render(plan) == films
        assert [film.read_bytes() for film in films] == before
    for other in (replace(plan, minutes=1.0), replace(plan, fps=4), replace(plan, varying=True)):
        with pytest.raises(OutputError, match=r"puppet-1-0\.mp4: exists already"):
            render(other)
    truth.unlink()
    with pytest.raises(OutputError, match=r"puppet-1-1\.mp4: exists already"):
        render(plan)
    assert [film.read_bytes() for film in films] == before
