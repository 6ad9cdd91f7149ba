"""Data: build a data set from films, run single stages, and look at what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.cache_root import cache_root
from m2d.curation.cut_detectors import check_detector
from m2d.curation.data_set import open_data_set, saved
from m2d.curation.embed import check_embedder
from m2d.curation.pipeline import STAGES, Cluster, Pipeline
from m2d.curation.report import GroupView, group_at, write_report
from m2d.curation.scan import check_films
from m2d.curation.stage_file import FOLDER, StageCount
from m2d.data.dataset_file import read_groups, shots_of
from m2d.data.decoder_pool import DecoderPool
from m2d.data.rule_counts import RuleCount, rule_counts
from m2d.data.scan import scan_videos
from m2d.errors import DatasetError
from m2d.folders import make_folder
from m2d.lock import hold
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.settings import Setting
from m2d.stop import StopRequest

_CHECK_LIMIT_S = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildPlan:
    """A data set to build.

    Attributes:
        films: Folder of films, or one film; None takes those of an earlier run.
        config: File with settings; None takes those of an earlier run.
        settings: Fields that replace them.
        stages: Which stages run, in their order.
        workers: Number of processes.
        cluster: Runs the stages' work there instead of in processes of this machine.
    """

    folder: Path
    films: Path | None = None
    config: Path | None = None
    settings: tuple[Setting, ...] = ()
    stages: Sequence[str] = STAGES
    workers: int = 1
    cluster: Cluster | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildResult:
    """What was built: the accounting of the stages that ran, and the page, if it was written."""

    folder: Path
    counts: tuple[StageCount, ...]
    page: Path | None


def build(plan: BuildPlan, reporter: Reporter) -> BuildResult:
    """Run the stages of a data set; finished inputs of earlier runs are not repeated.

    Raises:
        DatasetError: There are no films, a stage's file was changed, the stage before it is missing, or a
            stage rejected all of its inputs; its file and the page are written then, too.
        OutputBusy: Another process builds it.
        OutputError: The disk refused; finished inputs are kept.
        Interrupted: A stop was requested; finished inputs are kept.
    """
    data = open_data_set(plan.folder, films=plan.films, config=plan.config, settings=plan.settings)
    if "scan" in plan.stages:
        check_films(data)
    if "shots" in plan.stages:
        check_detector(data.settings.shots.detector)
    if "relate" in plan.stages:
        check_embedder(data.settings.relate)
    make_folder(plan.folder)
    counts: list[StageCount] = []
    page = None
    with StopRequest() as stop, hold(plan.folder, what="building this data set"), saved(data):
        pipeline = Pipeline(data, workers=plan.workers, reporter=reporter, stop=stop, cluster=plan.cluster)
        for stage in plan.stages:
            if stage == "report":
                page = write_report(pipeline)
                continue
            for count in pipeline.run(stage):
                counts.append(count)
                _report(count, reporter)
    _check_kept(counts, plan.folder, page)
    return BuildResult(folder=plan.folder, counts=tuple(counts), page=page)


def _check_kept(counts: Sequence[StageCount], folder: Path, page: Path | None) -> None:
    """Report a stage that rejected all of its inputs: nothing after it is of use."""
    for count in counts:
        if count.inputs and not count.kept:
            reason = max(count.rejected, key=lambda name: count.rejected[name])
            raise DatasetError(
                f"stage {count.stage} rejected all of its {count.inputs} inputs, most with: {reason}; "
                f"see {page or folder / FOLDER / f'{count.stage}.jsonl'}"
            )


def _report(count: StageCount, reporter: Reporter) -> None:
    rejected = ", ".join(f"{number} {reason}" for reason, number in count.rejected.items())
    words = f"{count.stage}: {count.inputs} in, {count.kept} kept, {count.inputs - count.kept} rejected"
    reporter.note(f"{words} ({rejected})" if rejected else words)


def show_group(folder: Path, number: int) -> GroupView:
    """Return one group of a built data set, counted from 0; raises as `group_at`."""
    data = open_data_set(folder)
    with StopRequest() as stop:
        return group_at(Pipeline(data, workers=0, reporter=SilentReporter(), stop=stop), number)


def check_data(
    source: Path, *, num_frames: int, fps: int, workers: int, reporter: Reporter
) -> list[RuleCount]:
    """Decode the videos of any data set, and count what each rule of training would leave out.

    Args:
        num_frames, fps: Of a training clip.

    Raises:
        DatasetError: The description is wrong.
        Interrupted: A stop was requested; the scans so far are cached.
    """
    groups = read_groups(source, file_format=None, root=None, caption_field="caption", warn=reporter.warn)
    shots = shots_of(groups)
    with StopRequest() as stop, DecoderPool(num_workers=workers, time_limit_s=_CHECK_LIMIT_S) as pool:
        scanned = scan_videos(
            [shot.video for shot in shots],
            pool=pool,
            memory=cache_root() / "latents" / "scans",
            reporter=reporter,
            stop=stop,
        )
    found = [scanned[shot.video].found for shot in shots]
    return rule_counts(shots, found, num_frames=num_frames, fps=fps)
