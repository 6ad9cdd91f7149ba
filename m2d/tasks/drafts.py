"""Drafts: a contact sheet of a film as a few denoising steps show it, before the real run.

Owns how quick a draft is and where its sheet goes. A draft keeps nothing that a run goes on from.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from m2d.backend import Backend
from m2d.files import make_folder, write_bytes
from m2d.model.decoding import SceneDecoder
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan
from m2d.stop import StopRequest
from m2d.tasks.assembly import assemble
from m2d.tasks.clock import Clock
from m2d.tasks.making import Making, SharedCodec
from m2d.tasks.production import Production, check_backend
from m2d.tasks.records import facts_of
from m2d.video.run_folder import run_folder_of
from m2d.video.sheet import sheet_png

DRAFT_STEPS = 8
"""Denoising steps of a draft: enough to see who stands where."""
DRAFT = "draft.png"


def draw_draft(production: Production, backend: Backend, *, reporter: Reporter) -> Path:
    """Draw the sheet of what the production will write, into the run folder of its film.

    Ctrl-C ends it as it ends any program: nothing is lost.

    Returns:
        The sheet's path, which the reporter is told, too.

    Raises:
        M2DError: As `produce`, but for what concerns the journal.
    """
    quick = replace(production, runs=tuple(replace(run, plan=_as_draft(run.plan)) for run in production.runs))
    plan, clock = quick.plan, Clock(reporter)
    check_backend(quick.plans, backend)
    # Never entered: it hears no signal.
    stop = StopRequest()
    codec = SharedCodec(plan.source, device=plan.device)
    making = Making(backend=backend, codec=codec, clock=clock, stop=stop)
    latents = making.make([run.plan for run in quick.runs], quick.film)
    making.release()
    decoder = SceneDecoder(codec, reporter=reporter)
    made = assemble(
        plan.scenes, latents, runs=quick.made_by, film=quick.film, decoder=decoder, clock=clock, stop=stop
    )
    scenes = quick.kept(made)
    path = run_folder_of(plan.output) / DRAFT
    make_folder(path.parent)
    sheet = sheet_png(
        [scene.frames(upscale=plan.upscale) for scene in scenes],
        [scene.made.prompt for scene in scenes],
        title=plan.title,
        facts=["draft", *facts_of(plan, plan.scenes)],
    )
    write_bytes(path, sheet)
    reporter.note(f"draft: {path}")
    return path


def _as_draft(plan: RunPlan) -> RunPlan:
    steps = min(DRAFT_STEPS, plan.sampling.num_inference_steps)
    return replace(plan, sampling=plan.sampling.model_copy(update={"num_inference_steps": steps}))
