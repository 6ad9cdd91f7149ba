"""Production: from planned runs to a verified film and its run folder, whatever stops it on the way.

Owns the order of the stages and what is kept in memory and on disk between them; every stage's work is done
elsewhere. Generating, extending, re-rolling and reproducing a film are productions that differ in their runs
and in the film they begin with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from m2d.backend import Backend
from m2d.errors import BackendUnavailable
from m2d.files import nameless_file, remove_file
from m2d.film.assembly import Assembled, assemble
from m2d.film.contents import files_of, provenance_of
from m2d.film.context_frames import FRAMES
from m2d.film.disk_space import check_disk_space
from m2d.film.journal import Journal, open_journal
from m2d.film.loaded_film import LoadedFilm
from m2d.film.making import Making, SharedCodec, WindowEvent
from m2d.film.output_scenes import ShownScene, encode_made, shown_scenes
from m2d.film.outputs import check_outputs
from m2d.film.previews import remove_previews, save_preview
from m2d.film.run_records import record_of, request_of, with_speeds
from m2d.film.transcode import take_over
from m2d.model.decoding import SceneDecoder
from m2d.pipeline.graphs import check_graphs
from m2d.progress import Clock, Reporter
from m2d.recipe.plan import RunPlan
from m2d.stop import StopRequest
from m2d.video.provenance import Provenance, RunKind, RunRecord
from m2d.video.provenance_text import seal_provenance
from m2d.video.run_folder import finish_run, run_folder_of
from m2d.video.write import write_film

PREVIEWS = "previews"
_NUM_PREVIEWS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedRun:
    """One run of a production."""

    kind: RunKind
    plan: RunPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Production:
    """What is to be made.

    Attributes:
        runs: In order, each adding to or changing the film that the ones before it left; all on one backend
            and one device. The last one's plan says how and where the film is written.
        film: The film that the first run adds to or changes.
        keeps: Scenes of the film that are written; None for all.
    """

    runs: tuple[PlannedRun, ...]
    film: LoadedFilm | None = None
    keeps: range | None = None

    @property
    def plan(self) -> RunPlan:
        """The last run's plan."""
        return self.runs[-1].plan

    @property
    def plans(self) -> list[RunPlan]:
        """All runs' plans."""
        return [run.plan for run in self.runs]

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user probably wants to change, each thing once."""
        return tuple(dict.fromkeys(warning for plan in self.plans for warning in plan.warnings))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the film that is gone on from."""
        return self.film.notes if self.film is not None else ()

    @property
    def first_kept(self) -> int:
        """The first scene that is written."""
        return 0 if self.keeps is None else self.keeps.start

    @property
    def window_steps(self) -> list[int]:
        """Denoising steps of every window."""
        return [plan.sampling.num_inference_steps for plan in self.plans for _ in plan.windows]

    @property
    def made_by(self) -> list[int]:
        """For every scene the index, among all runs of the film, of the one that made it."""
        film = self.film
        made_by = {} if film is None else {number: scene.run for number, scene in enumerate(film.scenes)}
        for index, plan in enumerate(self.plans, start=0 if film is None else len(film.runs)):
            made_by |= dict.fromkeys(plan.targets, index)
        return [made_by[number] for number in range(len(self.plan.scenes))]

    def kept(self, assembled: Assembled) -> list[ShownScene]:
        """The scenes that are written, as they are shown; the first of them joins nothing."""
        kept = range(len(assembled.scenes)) if self.keeps is None else self.keeps
        return shown_scenes(
            [assembled.scenes[number] for number in kept],
            {place: assembled.copies.get(number) for place, number in enumerate(kept)},
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductionOptions:
    """How a production is run; nothing here changes the film.

    Attributes:
        force: Whether existing outputs are replaced.
        resume: Whether an unfinished run of the same film is continued.
        save_previews: Whether the current estimate is drawn while denoising.
    """

    force: bool = False
    resume: bool = False
    save_previews: bool = False


DEFAULT_OPTIONS = ProductionOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductionResult:
    """What a production left.

    Attributes:
        film: The MP4.
        run_folder: `run.json`, `latents.safetensors` and `sheet.png`.
        provenance: What film and run folder carry.
        made: Scenes of the film that were made, from 0.
        size_bytes: Size of the film.
        timings_s: Stage to seconds; of the last process alone when the run was resumed.
        notes: What was done to the film that was gone on from.
        warnings: What the user probably wants to change.
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
        """Digest of the frames as the model made them: equal for equal runs."""
        return self.provenance.frames_sha256


def headline(production: Production) -> str:
    """What is going to be made, in one line: `A walk: scene 4 of 4, builtin:puppet with eager on cpu`."""
    plan = production.plan
    first = production.first_kept
    made = sorted({scene - first + 1 for each in production.plans for scene in each.targets})
    scenes = f"scene{'s' if len(made) > 1 else ''} {', '.join(map(str, made))}"
    total = len(plan.scenes) - first
    name = Path(plan.source.name).name
    return f"{plan.title}: {scenes} of {total}, {name} with {plan.backend} on {plan.device}"


def announce(production: Production, reporter: Reporter) -> None:
    """Tell what was found out before any work."""
    for note in production.notes:
        reporter.note(note)
    for warning in production.warnings:
        reporter.warn(warning)


def produce(
    production: Production,
    backend: Backend,
    *,
    reporter: Reporter,
    options: ProductionOptions = DEFAULT_OPTIONS,
) -> ProductionResult:
    """Make the film.

    What can fail early is checked before any work. Latents are on disk before decoding starts, and nothing
    appears under the film's name before all its frames are there and verified.

    Raises:
        OutputError: The film or its run folder exists, is held by another process, or cannot be written, or
            the disk has too little room.
        InputError: There is nothing to resume, or it belongs to another request.
        PrivacyError: The film's provenance would hold a path, host or user name.
        BackendUnavailable: The backend cannot run here or on the plan's device.
        CheckpointError: The model's weights do not fit its configs.
        Interrupted: SIGTERM or SIGINT came; the journal holds what was done.
    """
    plan = production.plan
    check_outputs(plan.output, force=options.force, resume=options.resume)
    check_backend(production.plans, backend)
    records = [record_of(run.kind, run.plan) for run in production.runs]
    clock = Clock(reporter)
    with (
        StopRequest() as stop,
        open_journal(
            plan.output,
            request=request_of(records, production.film, only_new=production.keeps is not None),
            versions=records[-1].versions,
            window_steps=production.window_steps,
            resume=options.resume,
            force=options.force,
            reporter=reporter,
        ) as journal,
        nameless_file(plan.output.absolute().parent) as scratch,
    ):
        check_disk_space(production.plans, production.film)
        if not journal.resumed and (run_folder_of(plan.output) / PREVIEWS).is_dir():
            # Of a film that this one replaces.
            remove_previews(run_folder_of(plan.output) / PREVIEWS)
        if production.film is not None:
            taken = take_over(production.film, scratch, output=plan.output, clock=clock, stop=stop)
            production = replace(production, film=taken)
        codec = SharedCodec(plan.source, device=plan.device)
        making = Making(
            backend=backend,
            codec=codec,
            clock=clock,
            stop=stop,
            journal=journal,
            watcher=_preview_saver(plan, codec) if options.save_previews else None,
        )
        latents = making.make(production.plans, production.film)
        making.release()
        assembled = assemble(
            plan.scenes,
            latents,
            runs=production.made_by,
            film=production.film,
            decoder=SceneDecoder(codec, reporter=reporter),
            clock=clock,
            stop=stop,
        )
        records = with_speeds(records, production.plans, making.speeds)
        return _publish(production, records, assembled, journal=journal, clock=clock)


def check_backend(plans: Sequence[RunPlan], backend: Backend) -> None:
    """Make sure that the backend can run plans here, and has the graphs that they need.

    Raises:
        BackendUnavailable: It cannot, or a graph has to be exported first: the message says how.
        ArtifactRefused: A graph is stale, foreign, damaged or not to be trusted.
    """
    plan = plans[-1]
    reason = backend.unavailable_reason(plan.device)
    if reason is not None:
        raise BackendUnavailable(f"backend {plan.backend!r}: {reason}; `m2d doctor` shows what works here")
    check_graphs(plans, backend)


def _preview_saver(plan: RunPlan, codec: SharedCodec) -> Callable[[WindowEvent], None]:
    folder = run_folder_of(plan.output) / PREVIEWS
    every = max(1, plan.sampling.num_inference_steps // _NUM_PREVIEWS)

    def save(event: WindowEvent) -> None:
        step = event.step
        if step.step % every == 0 or step.step == step.total:
            first, last = event.scene_numbers[0] + 1, event.scene_numbers[-1] + 1
            save_preview(
                folder / f"scenes-{first}-{last}",
                step.x0(),
                event.part.layout,
                codec(),
                step=step.step,
                total=step.total,
                scene_numbers=event.scene_numbers,
            )

    return save


def _publish(
    production: Production,
    records: Sequence[RunRecord],
    assembled: Assembled,
    *,
    journal: Journal,
    clock: Clock,
) -> ProductionResult:
    plan = production.plan
    made = sorted({scene - production.first_kept for each in production.plans for scene in each.targets})
    with clock.stage("write"):
        kept = encode_made(
            production.kept(assembled), plan.output.absolute().parent, fps=plan.fps, upscale=plan.upscale
        )
        provenance = provenance_of(
            plan,
            production.film,
            records,
            kept,
            first_kept=production.first_kept,
            is_tiled=assembled.is_tiled,
        )
        files = files_of(plan, production.film, kept, provenance)
        # From here on the film may replace the one it was made from: what is still needed must not be there.
        document = {
            "provenance": json.loads(seal_provenance(provenance)),
            "timings_s": clock.timings_s,
            "made": made,
        }
        journal.keep_made(document, files)
        write_film(
            plan.output,
            [scene.encoded for scene in kept],
            fps=plan.fps,
            upscale=plan.upscale,
            title=plan.title,
            scene_prompts=[scene.made.prompt for scene in kept],
            provenance=provenance,
            force=journal.may_replace,
        )
    run_folder = finish_run(plan.output, provenance=provenance, files=files, timings_s=clock.timings_s)
    if FRAMES not in files and (run_folder / FRAMES).is_file():
        # Of a film that this one replaced.
        remove_file(run_folder / FRAMES)
    journal.finish()
    return ProductionResult(
        film=plan.output,
        run_folder=run_folder,
        provenance=provenance,
        made=tuple(made),
        size_bytes=plan.output.stat().st_size,
        timings_s=clock.timings_s,
        notes=production.notes,
        warnings=production.warnings,
    )
