"""A short film of the puppet world and the data set that is built from it, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.recipe.settings import parse_settings
from m2d.stop import StopRequest
from m2d.tasks.data import BuildPlan, BuildResult, build

SETTINGS = ("relate.min_sim=0.3", "relate.num_shots=2")


def build_set(folder: Path, films: Path | None, *settings: str, **more: object) -> BuildResult:
    plan = BuildPlan(
        folder=folder, films=films, settings=parse_settings([*SETTINGS, *settings]), workers=0, **more
    )
    return build(plan, SilentReporter())


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    render_films(FilmPlan(out=folder, minutes=0.35, seed=3, fps=8), SilentReporter(), StopRequest())
    return folder


@pytest.fixture(scope="session")
def straight(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built") / "set"
    build_set(folder, films)
    return folder
