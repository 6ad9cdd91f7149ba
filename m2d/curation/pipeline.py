"""Runs the stages of a data set in their order; each reads the file of the one before it.

Owns the order, the worker processes and what is recorded; the stages are functions in their own files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from m2d.curation.caption_rules import Captions
from m2d.curation.captions import caption_groups
from m2d.curation.data_set import DataSet
from m2d.curation.embed import (
    EmbedderChoice,
    EmbedTask,
    Vectors,
    choose_embedder,
    embed_key,
    embed_shot,
    likeness,
    sim_range,
)
from m2d.curation.filter import filter_shots
from m2d.curation.pack import (
    DESCRIPTION,
    OFFICIAL,
    VIDEOS,
    Story,
    VideoTask,
    story_line,
    video_key,
    write_video,
)
from m2d.curation.ray_pool import RayPool
from m2d.curation.relate import Group, Similarity, Window, join_windows, judge_windows
from m2d.curation.scan import ClipRange, Film, divide, find_films, scan_film, scan_tasks
from m2d.curation.shots import Shot, ShotsTask, divide_range, shots_key
from m2d.curation.stage_file import Outcome, StageCount, StageFile, apart, run_stage
from m2d.curation.stills import stills_path
from m2d.data.csv_format import WrittenClip, write_csv
from m2d.data.decode import Broken
from m2d.data.decoder_pool import DecoderPool
from m2d.data.json_format import write_json_groups
from m2d.errors import DatasetError
from m2d.files import remove_strays, write_bytes
from m2d.folders import make_folder
from m2d.progress import Reporter
from m2d.stop import StopRequest

Cluster = Literal["ray"]
STAGES = ("scan", "clips", "shots", "filter", "relate", "caption", "pack", "report")
_SCAN_LIMIT_S = 120.0


class StageTask(Protocol):
    """Work on one input; `place` names it for people."""

    @property
    def key(self) -> str: ...
    @property
    def place(self) -> str: ...


Task = TypeVar("Task", bound=StageTask)
Output = TypeVar("Output")


@dataclass(frozen=True, kw_only=True, slots=True)
class Related:
    """What stage `relate` found.

    Attributes:
        judged: First and last place and similarity of all neighbours, or of all windows if the embedder
            judges these at once; kept or not, in the order of the shots.
    """

    groups: tuple[Group, ...]
    judged: tuple[tuple[int, int, float], ...]
    sim_range: tuple[float, float]
    embedder: EmbedderChoice


class Pipeline:
    """The stages of one data set; results are read from their files when they were not just made."""

    def __init__(
        self,
        data: DataSet,
        *,
        workers: int,
        reporter: Reporter,
        stop: StopRequest,
        cluster: Cluster | None = None,
    ) -> None:
        """Prepare; no process starts and nothing is read yet.

        Args:
            workers: Number of processes; 0 works in this process, without time limits.
            cluster: Works there instead.
        """
        self.data, self._workers, self._reporter, self._stop = data, workers, reporter, stop
        self._cluster = cluster
        self.scan = StageFile(data.folder, "scan", Film)
        self.clips = StageFile(data.folder, "clips", ClipRange)
        self.shots = StageFile(data.folder, "shots", Shot)
        self.filter = StageFile(data.folder, "filter", Shot)
        self.embed = StageFile(data.folder, "embed", Vectors)
        self.relate = StageFile(data.folder, "relate", Window)
        self.caption = StageFile(data.folder, "caption", Captions)
        self.pack = StageFile(data.folder, "pack", Story)
        self.videos = StageFile(data.folder, "videos", WrittenClip)

    def run(self, stage: str) -> list[StageCount]:
        """Run one stage; return its accounting, and that of what belongs to it.

        Raises:
            DatasetError: The stage before it is not finished, or its file was changed.
            OutputError: The disk refused; finished inputs are kept.
            Interrupted: A stop was requested; finished inputs are kept.
        """
        steps: dict[str, Callable[[], list[StageCount]]] = {
            "scan": self._run_scan,
            "clips": self._run_clips,
            "shots": self._run_shots,
            "filter": self._run_filter,
            "relate": self._run_relate,
            "caption": self._run_caption,
            "pack": self._run_pack,
        }
        return steps[stage]()

    def counts(self) -> list[StageCount]:
        """Return the accounting of all finished stages."""
        files = (self.scan, self.clips, self.shots, self.filter, self.embed, self.relate, self.caption)
        every = (*files, self.pack, self.videos)
        return [file.count(file.read()) for file in every if file.path.is_file()]  # type: ignore[arg-type]  # each counts its own lines

    def kept_shots(self) -> list[Shot]:
        """Return the shots that the filter kept."""
        return outputs_of(self.filter.read())

    def related(self) -> Related:
        """Return the groups of the finished stage `relate`."""
        return self._related(self.kept_shots(), self.relate.read())

    def _run_scan(self) -> list[StageCount]:
        films = find_films(self.data.films)
        tasks = scan_tasks(self.data.films, films)
        keys = [task.key for task in tasks]
        work = self._spread(scan_film, tasks, limit_s=_SCAN_LIMIT_S, name="scan films")
        return [self.scan.count(run_stage(self.scan, keys, work))]

    def _run_clips(self) -> list[StageCount]:
        lines = divide(self.scan.read(), clip_s=self.data.settings.shots.clip_s)
        return [self._write_whole(self.clips, lines)]

    def _run_shots(self) -> list[StageCount]:
        settings = self.data.settings.shots
        tasks = []
        for clip in outputs_of(self.clips.read()):
            key = shots_key(clip, settings)
            tasks.append(
                ShotsTask(
                    path=self.data.film(clip.film.name),
                    clip=clip,
                    settings=settings,
                    stills=stills_path(self.data.folder, key),
                    key=key,
                )
            )
        work = self._spread(divide_range, tasks, limit_s=settings.time_limit_s, name="find shots")
        lines = run_stage(self.shots, [task.key for task in tasks], work, still_valid=self._has_stills)
        return [self.shots.count(lines)]

    def _run_filter(self) -> list[StageCount]:
        lines = filter_shots(outputs_of(self.shots.read()), self.data.settings.filter)
        return [self._write_whole(self.filter, lines)]

    def _run_relate(self) -> list[StageCount]:
        shots, settings = self.kept_shots(), self.data.settings.relate
        choice = self._choice(shots)
        allowed = sim_range(settings, choice)
        tasks = [
            EmbedTask(shot=shot, data_set=self.data.folder, choice=choice, key=embed_key(shot, choice))
            for shot in shots
        ]
        work = self._spread(
            embed_shot, tasks, limit_s=self.data.settings.shots.time_limit_s, name="embed shots"
        )
        embedded = run_stage(self.embed, [task.key for task in tasks], work)
        lost = next((line for line in embedded if not line.is_kept), None)
        if lost is not None:
            raise DatasetError(f"{lost.place}: {lost.reason}")
        sims = _similarity(choice, outputs_of(embedded))
        windows = judge_windows(shots, settings, sim_range=allowed, similarity=sims, is_joint=choice.is_joint)
        return [self.embed.count(embedded), self._write_whole(self.relate, windows)]

    def _run_caption(self) -> list[StageCount]:
        groups = self.related().groups
        lines = caption_groups(self.data, groups, self.caption, reporter=self._reporter, stop=self._stop)
        return [self.caption.count(lines)]

    def _run_pack(self) -> list[StageCount]:
        groups = {group.name: group for group in self.related().groups}
        lines: list[Outcome[Story]] = []
        for line in self.caption.read():
            for captions in line.outputs:
                group = groups.get(captions.group)
                if group is None or len(captions.texts) != len(group.shots):
                    raise apart(self.data.folder, "relate", "caption")
                story = Story(
                    number=sum(each.is_kept for each in lines),
                    group=group,
                    captions=captions.texts,
                    caption_by=captions.by,
                )
                lines.append(Outcome(key=line.key, place=line.place, outputs=(story,)))
        stories = outputs_of(lines)
        count = self._write_whole(self.pack, lines)
        text = "".join(
            story_line(story, films=self.data.films_folder, data_set=self.data.folder) for story in stories
        )
        write_bytes(self.data.folder / DESCRIPTION, text.encode())
        return [count, self._write_official(stories)] if self.data.settings.pack.videos else [count]

    def _write_official(self, stories: Sequence[Story]) -> StageCount:
        films = {clip.film.name: clip.film for clip in outputs_of(self.clips.read())}
        folder = self.data.folder / OFFICIAL
        tasks = []
        for story in stories:
            for number, (shot, caption) in enumerate(zip(story.group.shots, story.captions, strict=True), 1):
                if shot.film not in films:
                    raise apart(self.data.folder, "clips", "relate")
                name = f"{VIDEOS}/{story.group.name}-{number}.mp4"
                tasks.append(
                    VideoTask(
                        path=self.data.film(shot.film),
                        film=films[shot.film],
                        shot=shot,
                        caption=caption,
                        folder=folder,
                        place=name,
                        key=video_key(shot, caption, name),
                    )
                )
        limit_s = self.data.settings.shots.time_limit_s
        work = self._spread(write_video, tasks, limit_s=limit_s, name="write videos")
        keys = [task.key for task in tasks]
        lines = run_stage(self.videos, keys, work, still_valid=partial(_has_videos, folder))
        written = iter(lines)
        groups = [[next(written) for _ in story.group.shots] for story in stories]
        whole = [outputs_of(group) for group in groups if all(line.is_kept for line in group)]
        make_folder(folder)
        write_bytes(folder / "sft.json", write_json_groups(whole).encode())
        write_bytes(folder / "pretrain.csv", write_csv([clip for clips in whole for clip in clips]).encode())
        return self.videos.count(lines)

    def _write_whole(self, file: StageFile[Output], lines: Sequence[Outcome[Output]]) -> StageCount:
        """Write a stage that takes no time: it is computed again, but a changed file is reported."""
        file.known()
        file.finish(lines)
        return file.count(lines)

    def _spread(
        self, work: Callable[[Task], Outcome[Output]], tasks: Sequence[Task], *, limit_s: float, name: str
    ) -> Callable[[Sequence[int]], Iterator[tuple[int, Outcome[Output]]]]:
        """Return work on tasks by their places, in processes of their own or on the cluster."""

        def run(places: Sequence[int]) -> Iterator[tuple[int, Outcome[Output]]]:
            if not places:
                return
            chosen = [tasks[place] for place in places]
            with (
                _without_strays(chosen),
                self._pool(len(chosen), limit_s, in_actors=work is embed_shot) as pool,
                self._reporter.stage(name, total=len(chosen)) as progress,
            ):
                is_here = not self._workers and self._cluster is None
                results = ((task, work(task)) for task in chosen) if is_here else pool.map(work, chosen)
                for place, (task, found) in zip(places, results, strict=True):
                    if isinstance(found, Broken):
                        found = Outcome(key=task.key, place=task.place, reason=found.reason)
                    yield place, found
                    progress.advance()
                    self._stop.check("while building a data set: run the same command again")

        return run

    def _pool(self, num_tasks: int, limit_s: float, *, in_actors: bool) -> DecoderPool | RayPool:
        if self._cluster is None:
            return DecoderPool(num_workers=min(self._workers, num_tasks), time_limit_s=limit_s)
        return RayPool(time_limit_s=limit_s, in_actors=in_actors)

    def _has_stills(self, line: Outcome[Shot]) -> bool:
        return not line.is_kept or stills_path(self.data.folder, line.key).is_file()

    def _choice(self, shots: Sequence[Shot]) -> EmbedderChoice:
        films = outputs_of(self.scan.read())
        is_puppet = bool(films) and all(film.is_puppet for film in films)
        return choose_embedder(self.data.settings.relate, shots, is_puppet=is_puppet)

    def _related(self, shots: list[Shot], windows: list[Outcome[Window]]) -> Related:
        choice, vectors = self._choice(shots), outputs_of(self.embed.read())
        places = {place for line in windows for window in line.outputs for place in window.places}
        if len(vectors) != len(shots) or not places <= set(range(len(shots))):
            raise apart(self.data.folder, "filter", "embed", "relate")
        sims = _similarity(choice, vectors)
        settings = self.data.settings.relate
        shown = settings if choice.is_joint else settings.model_copy(update={"num_shots": 2})
        every = judge_windows(shots, shown, sim_range=(-1.0, 1.0), similarity=sims, is_joint=choice.is_joint)
        judged = tuple(
            (window.places[0], window.places[-1], window.similarities[0])
            for line in every
            for window in line.outputs
        )
        groups = join_windows(windows, shots, settings, similarity=sims)
        return Related(
            groups=tuple(groups), judged=judged, sim_range=sim_range(settings, choice), embedder=choice
        )


def _similarity(choice: EmbedderChoice, vectors: Sequence[Vectors]) -> Similarity:
    return lambda places: likeness(choice, [vectors[place] for place in places])


def outputs_of(lines: Sequence[Outcome[Output]]) -> list[Output]:
    """Return all outputs of a stage in order."""
    return [output for line in lines for output in line.outputs]


def _has_videos(folder: Path, line: Outcome[WrittenClip]) -> bool:
    return all((folder / clip.video).is_file() for clip in line.outputs)


@contextlib.contextmanager
def _without_strays(tasks: Sequence[object]) -> Iterator[None]:
    """Remove the files that processes were writing when they were ended."""
    try:
        yield
    finally:
        folders = {task.stills.parent for task in tasks if isinstance(task, ShotsTask)}
        for folder in sorted(folder for folder in folders if folder.is_dir()):
            remove_strays(folder)
