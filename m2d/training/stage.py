"""One training stage: encode the stories, train, export a model folder.

Owns the order of these steps and the checks before the first step; `trainer` owns the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from m2d.cache_root import cache_root
from m2d.data.scan import ScannedData
from m2d.errors import OutputError, Remedy
from m2d.families.opening import part_folder
from m2d.files import write_bytes
from m2d.geometry import SceneGeometry
from m2d.lock import hold
from m2d.model.scene_model import SceneModel
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.training.cache import StoryLatents
from m2d.training.datasets import DataOfRun, open_stories, rendered_stories
from m2d.training.export import publish_model
from m2d.training.folder import remove_leftovers
from m2d.training.frozen import FrozenParts, load_frozen, noise_config
from m2d.training.model_folders import check_models
from m2d.training.processes import Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.recipe_text import recipe_text
from m2d.training.resume import check_resumable, resume_latest, versions
from m2d.training.start import (
    Start,
    frozen_digest,
    latent_size,
    new_state,
    read_start,
    scene_geometries,
    training_layout,
    transformer_config,
)
from m2d.training.state import FOLDER, TrainState
from m2d.training.step import TrainingSetup
from m2d.training.trainer import Outcome, Trainer
from m2d.training.unprompted_heads import UnpromptedHeads
from m2d.training.validation import open_watchers

MODEL = "model"
RECIPE = "recipe.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """A training stage with its settings.

    Attributes:
        run: Run folder: checkpoints, log and, at the end, `model`.
        resume: Whether to resume from the newest checkpoint in `run` that verifies.
        max_minutes: Save a checkpoint and stop after so many minutes.
        num_threads: CPU threads; None leaves torch's choice.
        cache: Folder of latent caches; None for the user's cache folder.
        header: Comment at the top of the recipe that is written into the run folder.
        found: The recipe's dataset, if this process has read and scanned it already.
    """

    recipe: TrainingRecipe
    run: Path
    resume: bool
    max_minutes: float | None = None
    num_threads: int | None
    cache: Path | None
    header: str = ""
    found: ScannedData | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingReport:
    """Result of a training stage.

    Attributes:
        step: Number of finished steps.
        held_out_loss: Loss of the exported weights; None if no story is held out.
        is_main: Whether this process reports the result.
    """

    outcome: Outcome
    step: int
    held_out_loss: float | None
    model: Path
    is_main: bool = True


def run_stage(
    plan: TrainingPlan, processes: Processes, reporter: Reporter, stop: StopRequest
) -> TrainingReport:
    """Train from the stories to the model folder; all processes call this together.

    Raises:
        CheckpointError: A model folder, run or checkpoint that does not fit.
        HubUnavailable: A hub does not answer.
        OutputError: The run folder holds another training.
        OutputBusy: Another process is training there.
        DatasetError: There are too few stories.
        Interrupted: A signal came; a checkpoint or complete cache shards were saved.
        DivergedError: The loss or the gradient was not finite.
    """

    def check() -> str:
        check_models(plan.recipe, reporter)
        return ""

    # Before anything is written.
    processes.on_main(check)
    with ExitStack() as stack:

        def lock() -> str:
            stack.enter_context(hold(plan.run, what="training there"))
            remove_leftovers(plan.run)
            remove_leftovers(plan.run / FOLDER)
            if plan.resume:
                check_resumable(plan.run, plan.recipe)
            elif any((plan.run / FOLDER).glob("*")):
                raise OutputError(f"{plan.run}: holds a training already", remedy=Remedy.RESUME_TRAINING)
            else:
                text = recipe_text(plan.recipe, header=plan.header)
                write_bytes(plan.run / RECIPE, text.encode("utf-8"))
            return ""

        processes.on_main(lock)
        return _run(plan, processes, reporter, stop, stack=stack)


def _run(
    plan: TrainingPlan, processes: Processes, reporter: Reporter, stop: StopRequest, *, stack: ExitStack
) -> TrainingReport:
    recipe = plan.recipe
    # Not `resolve_model`: training from random weights needs a folder without a transformer only.
    folder = part_folder(recipe.model)
    start, frozen = _load_parts(recipe, folder, processes.device)
    geometries = scene_geometries(recipe, start.config, compression=frozen.vae.compression)
    stories = _encoded(plan, frozen, geometries, stack, processes=processes, reporter=reporter, stop=stop)
    # All prompts are encoded; the transformer needs the memory.
    frozen.text.release()
    if not recipe.data.held_out:
        reporter.note("data.held_out: 0: no held-out loss is measured")
    layouts = {latent_size(each): training_layout(recipe, start.config, each) for each in geometries}
    state = new_state(recipe, start, processes)
    if recipe.objective.unprompted_weight:
        shared_S2 = rendered_stories(recipe.data, geometries[0]).shared_properties()
        assert isinstance(state.model, SceneModel)
        state.heads = UnpromptedHeads(state.model, shared_S2)
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "transformer": start.config,
        "stories": stories.digest,
        "layout": " ".join(layout.digest() for layout in layouts.values()),
        "scheduler": noise_config(folder),
        "versions": versions(processes),
    }
    if recipe.lora is not None:
        facts["frozen"] = frozen_digest(state.model)
    if plan.resume:
        resume_latest(plan.run, state, facts=facts, processes=processes, reporter=reporter)
    setup = TrainingSetup(
        recipe=recipe,
        stories=stories,
        schedule=frozen.schedule,
        layouts=layouts,
        run=plan.run,
        facts=facts,
        processes=processes,
    )
    return _train_and_export(setup, state, plan=plan, folder=folder, reporter=reporter, stop=stop)


def _train_and_export(
    setup: TrainingSetup,
    state: TrainState,
    *,
    plan: TrainingPlan,
    folder: Path,
    reporter: Reporter,
    stop: StopRequest,
) -> TrainingReport:
    watchers = open_watchers(setup, model_folder=folder, reporter=reporter)
    trainer = Trainer(setup, state, reporter=reporter, stop=stop, watchers=watchers)
    outcome = trainer.run(max_minutes=plan.max_minutes)
    if outcome == "out of time":
        done = f"{state.step} of {setup.recipe.steps}"
        reporter.note(f"the time is up after step {done}; resuming the run continues it")
    why_no_curves = publish_model(setup, state, frozen=folder, path=plan.run / MODEL)
    if why_no_curves:
        reporter.warn(f"the model card has no curves: {why_no_curves}")
    return TrainingReport(
        outcome=outcome,
        step=state.step,
        held_out_loss=trainer.held_out_loss().get("loss"),
        model=plan.run / MODEL,
        is_main=setup.processes.is_main,
    )


def _load_parts(recipe: TrainingRecipe, folder: Path, device: torch.device) -> tuple[Start, FrozenParts]:
    text_dtype: torch.dtype = getattr(torch, recipe.precision)
    if recipe.transformer is None:
        start = read_start(part_folder(recipe.init))
        max_text_tokens = int(start.config["max_text_seq_length"])
        return start, load_frozen(
            folder, max_text_tokens=max_text_tokens, device=device, text_dtype=text_dtype
        )
    max_text_tokens = recipe.transformer.max_text_tokens
    frozen = load_frozen(folder, max_text_tokens=max_text_tokens, device=device, text_dtype=text_dtype)
    config = transformer_config(
        recipe.transformer,
        video=recipe.video,
        latent_channels=frozen.vae.latent_channels,
        text_width=frozen.text.width,
        compression=frozen.vae.compression,
    )
    return Start(config, None), frozen


def _encoded(
    plan: TrainingPlan,
    frozen: FrozenParts,
    geometries: Sequence[SceneGeometry],
    stack: ExitStack,
    *,
    processes: Processes,
    reporter: Reporter,
    stop: StopRequest,
) -> StoryLatents:
    """Encode the stories in the main process, then open them in all until `stack` is left."""
    opened: list[StoryLatents] = []

    def open_here() -> str:
        stories = open_stories(
            plan.recipe,
            frozen,
            geometries,
            of_run=DataOfRun(
                caches=plan.cache or cache_root() / "latents",
                folder=plan.run,
                keeps_rejects=plan.resume or not processes.is_main,
                found=plan.found,
            ),
            reporter=reporter,
            stop=stop,
        )
        opened.append(stack.enter_context(stories))
        return ""

    processes.on_main(open_here)
    if not opened:
        open_here()
    return opened[0]
