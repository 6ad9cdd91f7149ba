"""Render: stories of the puppet theatre as a dataset on disk."""

from __future__ import annotations

from pathlib import Path

from m2d.errors import OutputError, Remedy
from m2d.lock import hold
from m2d.progress import Reporter
from m2d.puppet.dataset_files import RenderPlan, check_plan, write_dataset
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.stop import StopRequest


def render(plan: RenderPlan, reporter: Reporter) -> Path:
    """Write the dataset; return the path of its description.

    Raises:
        OutputError: The folder already holds a dataset, or the disk refused.
        Interrupted: A signal came; the same command continues with the missing files.
    """
    check_plan(plan)
    with StopRequest() as stop, hold(plan.out, what="rendering there"):
        if plan.description.exists():
            raise OutputError(f"{plan.description}: exists already", remedy=Remedy.CHOOSE_OUTPUT)
        return write_dataset(plan, reporter, stop)


def render_long_films(plan: FilmPlan, reporter: Reporter) -> list[Path]:
    """Write long films with their truth; raises as `render_films`."""
    with StopRequest() as stop, hold(plan.out, what="rendering there"):
        return render_films(plan, reporter, stop)
