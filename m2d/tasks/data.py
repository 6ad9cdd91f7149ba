"""Data: build a data set from films, run single stages, and look at what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.curation.data_set import DataSet, open_data_set, save_data_set
from m2d.curation.pipeline import STAGES, Pipeline
from m2d.curation.report import write_report
from m2d.curation.stage_file import StageCount
from m2d.errors import DatasetError, InputError
from m2d.folders import make_folder
from m2d.lock import hold
from m2d.progress import Reporter
from m2d.recipe.settings import Setting
from m2d.stop import StopRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """A data set to build.

    Attributes:
        films: Folder of films, or one film; None takes those of an earlier run.
        config: File with settings; None takes those of an earlier run.
        settings: Fields that replace them.
        stages: Which stages run, in their order.
        workers: Number of processes.
    """

    folder: Path
    films: Path | None = None
    config: Path | None = None
    settings: tuple[Setting, ...] = ()
    stages: Sequence[str] = STAGES
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What was built: the accounting of the stages that ran, and the page, if it was written."""

    folder: Path
    counts: tuple[StageCount, ...]
    page: Path | None


def build(plan: BuildPlan, reporter: Reporter) -> BuildResult:
    """Run the stages of a data set; finished inputs of earlier runs are not repeated.

    Raises:
        DatasetError: There are no films, a stage's file was changed, or the stage before it is missing.
        OutputBusy: Another process builds it.
        OutputError: The disk refused; finished inputs are kept.
        Interrupted: A stop was requested; finished inputs are kept.
    """
    data = open_data_set(plan.folder, films=plan.films, config=plan.config, settings=plan.settings)
    _check_apart(data)
    make_folder(plan.folder)
    counts: list[StageCount] = []
    page = None
    with StopRequest() as stop, hold(plan.folder, what="building this data set"):
        save_data_set(data)
        pipeline = Pipeline(data, workers=plan.workers, reporter=reporter, stop=stop)
        for stage in plan.stages:
            if stage == "report":
                page = write_report(pipeline)
                continue
            for count in pipeline.run(stage):
                counts.append(count)
                _report(count, reporter)
    return BuildResult(folder=plan.folder, counts=tuple(counts), page=page)


def _check_apart(data: DataSet) -> None:
    """Refuse an output folder among the films: its videos would be inputs of the next run."""
    films, folder = data.films_folder.resolve(), data.folder.resolve()
    if data.films.is_dir() and folder.is_relative_to(films):
        raise InputError(
            f"{data.folder}: lies in the folder of films {data.films}; choose another", argument="out"
        )


def _report(count: StageCount, reporter: Reporter) -> None:
    rejected = ", ".join(f"{number} {reason}" for reason, number in count.rejected.items())
    words = f"{count.stage}: {count.inputs} in, {count.kept} kept, {count.inputs - count.kept} rejected"
    reporter.note(f"{words} ({rejected})" if rejected else words)


def check_stage(name: str) -> None:
    """Refuse an unknown stage.

    Raises:
        DatasetError: It is unknown.
    """
    if name not in STAGES:
        raise DatasetError(f"stage {name!r} is unknown; there are {', '.join(STAGES)}")
