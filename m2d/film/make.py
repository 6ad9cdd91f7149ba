"""Make a film: from planned runs to a verified film and its run folder, resumable after any interruption.

Owns the order of the stages and which intermediate results are saved; the stages are elsewhere. `generate`,
`extend`, `reroll` and `reproduce` differ in their runs and in the film they start from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from m2d.backend import Backend
from m2d.errors import Interrupted, Remedy
from m2d.files import nameless_file, remove_file
from m2d.film.assembly import AssembledFilm
from m2d.film.context_frames import FRAMES
from m2d.film.disk_space import check_disk_space
from m2d.film.draft import draft_path, draw_draft
from m2d.film.job import FilmJob, check_backend, make_scenes
from m2d.film.journal import Journal, open_journal
from m2d.film.journal_contents import PendingOutput
from m2d.film.machine import report_threads, with_dtypes, with_threads
from m2d.film.output_scenes import encode_output
from m2d.film.outputs import check_outputs
from m2d.film.placed import MemoryClock, keeping_state, placed, with_modes
from m2d.film.previews import PREVIEWS, PreviewSaver, remove_previews
from m2d.film.resume import begun_dtypes
from m2d.film.run_records import files_of, provenance_of, record_of, request_of, with_speeds
from m2d.film.sound import placed_sound
from m2d.film.transcode import transcode_scenes
from m2d.pipeline.observer import Observer, WindowStep
from m2d.pipeline.pipeline_vae import VaeUse
from m2d.pipeline.scenes import ScenePipeline
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.video.provenance import Provenance, RunRecord, seal_provenance
from m2d.video.run_folder import finish_run, run_folder_of
from m2d.video.write import write_encoded


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Options of a run that do not change its story.

    Attributes:
        force: Replace existing outputs.
        resume: Continue an unfinished run of the same film.
        save_previews: Draw the current estimate while denoising.
        draft: Draw a contact sheet after the first steps, before the others are taken.
        num_threads: CPU threads, which change the last bits of the frames. None takes the number of the
            unfinished run or of the film that the run starts from, and else as many as torch uses.
    """

    force: bool = False
    resume: bool = False
    save_previews: bool = False
    draft: bool = False
    num_threads: int | None = None


DEFAULT_OPTIONS = RunOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmResult:
    """The film that a job made.

    Attributes:
        run_folder: The folder with `run.json`, `latents.safetensors` and `sheet.png`.
        made: Scenes of the film that were generated, from 0.
        timings_s: Stage to seconds; after a resume, of the last process only.
        notes: How the input film was converted.
        warnings: Problems of the recipe that do not prevent the run.
    """

    film: Path
    run_folder: Path
    provenance: Provenance
    made: tuple[int, ...]
    size_bytes: int
    timings_s: Mapping[str, float]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def frames_sha256(self) -> str:
        """Digest of the decoded frames before encoding: equal for equal runs."""
        return self.provenance.frames_sha256


def make_film(
    job: FilmJob,
    backend: Backend,
    *,
    reporter: Reporter,
    options: RunOptions = DEFAULT_OPTIONS,
) -> FilmResult:
    """Make the film of a job.

    Inputs, backend and disk space are checked before any work. Latents are saved before decoding starts, and
    the file is renamed to the film's name only after every frame has been verified.

    Raises:
        OutputError: The film or its run folder exists, is locked by another process, or cannot be written, or
            the disk is too full.
        InputError: There is no run to resume, or its request differs.
        PrivacyError: The film's provenance would contain a path, host or user name.
        BackendError: The backend cannot run here, lacks a graph, or predicts values that are not finite.
        CheckpointError: The model's weights do not fit its configs.
        TooLittleMemory: No memory mode fits the device.
        OutOfMemory: Memory ran out in spite of the prediction; the journal holds the finished work.
        Interrupted: SIGTERM or SIGINT came; the journal holds the finished work.
    """
    plan = job.plan
    check_outputs(plan.output, force=options.force, resume=options.resume)
    if options.resume:
        job = with_dtypes(job, begun_dtypes(plan.output), reporter)
        plan = job.plan
    check_backend(job.plans, backend)
    job = with_threads(job, [options.num_threads] * len(job.runs))
    job, prediction = placed(job, backend, reporter)
    records = [record_of(run.kind, run.plan) for run in job.runs]
    clock, stop = MemoryClock(reporter, device=plan.device), StopRequest()
    with (
        stop,
        open_journal(
            plan.output,
            request=request_of(records, job.plans, job.film, only_new=job.keeps is not None),
            versions=records[-1].versions,
            window_steps=job.window_steps,
            resume=options.resume,
            force=options.force,
            reporter=reporter,
        ) as journal,
        nameless_file(plan.output.absolute().parent) as scratch,
    ):
        check_disk_space(job.plans, job.film)
        if journal.resumed and options.num_threads is None:
            job = with_threads(job, journal.num_threads)
            records = [record_of(run.kind, run.plan) for run in job.runs]
        is_asked = options.num_threads is not None
        job = report_threads(job, began_with=journal.num_threads, is_asked=is_asked, reporter=reporter)
        if not journal.resumed:
            _remove_pictures(plan.output)
        pipeline = ScenePipeline(
            plan.source, backend, device=plan.device, clock=clock, vae=VaeUse.of(job.plan)
        )
        previews = PreviewSaver(plan, pipeline.vae) if options.save_previews else None
        observer = _observer(journal, stop, previews)
        if options.draft and not draft_path(plan.output).exists():
            with keeping_state(job, journal, observer, prediction):
                _draw_draft(job, pipeline, journal, observer)
        if job.film is not None:
            film = transcode_scenes(
                job.film, scratch, output=plan.output, clock=clock, check_stop=observer.check_stop
            )
            job = replace(job, film=film)
        with keeping_state(job, journal, observer, prediction) as keeping:
            denoised, assembled = make_scenes(job, pipeline, resume=journal.resume_point(), observer=keeping)
        records = with_modes(with_speeds(records, job.plans, denoised.speeds), job)
        predicted = None if prediction is None else prediction.record()
        return _publish(job, records, assembled, journal=journal, clock=clock, predicted=predicted)


def _remove_pictures(film: Path) -> None:
    """Remove draft and previews of the film that this one replaces."""
    if (run_folder_of(film) / PREVIEWS).is_dir():
        remove_previews(run_folder_of(film) / PREVIEWS)
    if draft_path(film).is_file():
        remove_file(draft_path(film))


def _draw_draft(job: FilmJob, pipeline: ScenePipeline, journal: Journal, observer: Observer) -> None:
    """Draw the draft, and keep the steps that it shares with the film."""
    resume = journal.resume_point()
    first = len(resume.windows)
    if first == len(job.window_steps):
        return

    def on_step(step: WindowStep) -> None:
        # Later windows start from estimates; their steps are not the film's.
        if step.index == first and observer.on_step is not None:
            observer.on_step(step)
        observer.check_stop()

    drawing = Observer(on_step=on_step, check_stop=observer.check_stop)
    state = draw_draft(job, pipeline, resume=resume, observer=drawing)
    if state.steps_done < job.window_steps[first]:
        journal.keep_step(first, state)


def _observer(journal: Journal, stop: StopRequest, previews: PreviewSaver | None) -> Observer:
    """Return the observer that draws previews, saves steps and windows, and ends the run after a signal."""

    def check_stop() -> None:
        if stop.reason:
            raise Interrupted(f"{stop.reason}: finished work is kept", remedy=Remedy.RESUME)

    def on_step(step: WindowStep) -> None:
        if previews is not None:
            previews.save(step)
        # The last step is saved as the window's latents.
        if not step.is_last:
            if stop.reason or journal.is_due(step.event):
                journal.keep_step(step.index, step.event.state())
            check_stop()

    return Observer(on_step=on_step, on_window=journal.keep_window, check_stop=check_stop)


def _publish(
    job: FilmJob,
    records: Sequence[RunRecord],
    assembled: AssembledFilm,
    *,
    journal: Journal,
    clock: MemoryClock,
    predicted: Mapping[str, Any] | None,
) -> FilmResult:
    plan = job.plan
    with clock.stage("write"):
        kept = encode_output(job.kept(assembled), plan.output.absolute(), plan)
        provenance = provenance_of(
            plan,
            job.film,
            records,
            kept,
            first_kept=job.first_kept,
            is_tiled=assembled.is_tiled,
        )
        files = files_of(plan, job.film, kept, provenance)
        # The new film may replace the film it was made from, so a resume needs the finished output itself.
        document = {
            "provenance": json.loads(seal_provenance(provenance)),
            "timings_s": clock.timings_s,
            "peaks_bytes": clock.peaks_bytes,
            "predicted": predicted,
            "made": sorted({scene - job.first_kept for each in job.plans for scene in each.targets}),
        }
        journal.keep_output(document, files)
        write_encoded(
            plan.output,
            [scene.encoded for scene in kept],
            fps=plan.film_fps,
            title=plan.title,
            scene_prompts=[scene.made.prompt for scene in kept],
            provenance=provenance,
            sound=placed_sound(job.film, provenance, first_kept=job.first_kept),
            force=journal.may_replace,
        )
    output = PendingOutput(document=document | {"timings_s": clock.timings_s}, files=files)
    result = complete_run(plan.output, output, provenance, journal)
    return replace(result, notes=job.notes, warnings=job.warnings)


def complete_run(film: Path, output: PendingOutput, provenance: Provenance, journal: Journal) -> FilmResult:
    """Write the run folder of a written film, and remove the journal."""
    timings_s = output.document["timings_s"]
    costs = {name: output.document[name] for name in ("peaks_bytes", "predicted") if name in output.document}
    run_folder = finish_run(film, provenance=provenance, files=output.files, timings_s=timings_s, costs=costs)
    if FRAMES not in output.files and (run_folder / FRAMES).is_file():
        # The file belongs to the film that this one replaced.
        remove_file(run_folder / FRAMES)
    journal.finish()
    return FilmResult(
        film=film,
        run_folder=run_folder,
        provenance=provenance,
        made=tuple(output.document["made"]),
        size_bytes=film.stat().st_size,
        timings_s=timings_s,
    )
