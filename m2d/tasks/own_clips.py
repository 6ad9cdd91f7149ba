"""Train on own clips without a recipe: scan them, choose a recipe, train; or check the data of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch

from m2d.cache_root import cache_root
from m2d.data.scan import ScannedData
from m2d.errors import CheckpointError, InputError
from m2d.families.loading import load_tokenizer
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.loader import load_document, parse_document
from m2d.recipe.settings import Setting
from m2d.stop import StopRequest
from m2d.tasks.train import run_in
from m2d.training.data_check import DataSummary, scan_data, summarize
from m2d.training.defaults import (
    ChosenRecipe,
    choose_recipe,
    data_of_clips,
    fit_to_memory,
    given_values,
)
from m2d.training.machine import Machine, this_machine
from m2d.training.processes import start_processes
from m2d.training.recipe import Stage, TrainingRecipe
from m2d.training.recipe_text import recipe_text
from m2d.training.resume import newest_checkpoint
from m2d.training.stage import RECIPE, TrainingPlan, TrainingReport


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnClips:
    """Clips to train on.

    Attributes:
        data: A folder of videos and captions, or a dataset's description.
        model: Model folder or name; None for the embedded model.
        stage: None chooses it by the clips.
        cache: Folder of latent caches; None for the user's cache folder.
        settings: Fields that replace those that are chosen.
    """

    data: Path
    model: str | None = None
    stage: str | None = None
    cache: Path | None = None
    settings: tuple[Setting, ...] = ()


def choose(
    clips: OwnClips,
    reporter: Reporter,
    *,
    machine: Machine | None = None,
    downloads: Reporter | None = None,
) -> ChosenRecipe:
    """Scan the clips and choose a recipe for them.

    Args:
        downloads: Receives the progress of downloads; None downloads nothing.

    Raises:
        InputError: An unknown stage, or a setting names other clips.
        RecipeError: A setting is wrong.
        CheckpointError: The model is not here or not complete.
        DatasetError: The dataset is wrong, or no clip can be read.
        Interrupted: A stop was requested; the scans so far are cached.
    """
    asked = _asked(clips, "stage")
    stage = next((name for name in get_args(Stage) if name == asked), None)
    if asked is not None and stage is None:
        raise InputError(f"allowed: {', '.join(get_args(Stage))}", argument=f"stage {asked}")
    model = resolve_model(_asked(clips, "model") or BUILTIN_PUPPET, downloads=downloads)
    machine = machine or this_machine()
    data = data_of_clips(clips.data, clips.settings, machine)
    root, tokenizer = clips.cache or cache_root() / "latents", load_tokenizer(model)
    with StopRequest() as stop:
        found = scan_data(data, tokenizer, root=root, reporter=reporter, stop=stop)
    choose_with = partial(choose_recipe, found, model=model, stage=stage, machine=machine, data=data)
    chosen = choose_with()
    given = given_values(_with_settings(chosen.recipe, clips), clips.settings)
    if given:
        chosen = choose_with(given=given)
    return replace(chosen, recipe=_with_settings(fit_to_memory(chosen.recipe, machine), clips))


def _with_settings(recipe: TrainingRecipe, clips: OwnClips) -> TrainingRecipe:
    text, name = recipe_text(recipe), "the chosen recipe"
    return parse_document(text, TrainingRecipe, name=name, settings=clips.settings).value


def _asked(clips: OwnClips, name: str) -> str | None:
    """Return the value of an option or of the setting of the same field."""
    asked = getattr(clips, name)
    return asked or next((str(each.value) for each in clips.settings if each.key_path == (name,)), None)


def text_of(chosen: ChosenRecipe) -> str:
    """Return the chosen recipe as YAML, with its reasons at the top."""
    return recipe_text(chosen.recipe, header=_header(chosen))


def train_on(
    clips: OwnClips,
    reporter: Reporter,
    *,
    run: Path,
    resume: bool = False,
    num_threads: int | None = None,
    max_minutes: float | None = None,
) -> TrainingReport:
    """Choose a recipe, write it into the run folder, and train; `resume` takes the recipe that is there.

    Raises:
        M2DError: As `choose` and `m2d.tasks.train.run`.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    processes = start_processes(this_machine().device)
    main_reporter = reporter if processes.is_main else SilentReporter()
    found: list[ScannedData] = []

    def text() -> str:
        if resume:
            newest_checkpoint(run)
        if resume and (run / RECIPE).is_file():
            return recipe_text(load_document(run / RECIPE, TrainingRecipe, settings=clips.settings))
        machine = this_machine(num_processes=processes.count)
        chosen = choose(clips, main_reporter, machine=machine, downloads=main_reporter)
        for reason in chosen.reasons:
            main_reporter.note(reason)
        found.append(chosen.found)
        return text_of(chosen)

    # The first process chooses for all: the others may see another machine.
    written = processes.on_main(text)
    plan = TrainingPlan(
        recipe=parse_document(written, TrainingRecipe, name=RECIPE).value,
        run=run,
        resume=resume,
        max_minutes=max_minutes,
        num_threads=num_threads,
        cache=clips.cache,
        header="\n".join(line[2:] for line in written.splitlines() if line.startswith("# ")),
        found=found[0] if found else None,
    )
    return run_in(processes, plan, reporter)


def check_data(
    recipe: TrainingRecipe, reporter: Reporter, *, cache: Path | None = None, found: ScannedData | None = None
) -> DataSummary | None:
    """Read and scan the dataset of a recipe as its training would; None if there is nothing to check.

    `found` is the dataset if that is done already. Rendered stories need no check, and a recipe may be
    planned before its data or its model are here.

    Raises:
        DatasetError: The dataset is wrong.
        Interrupted: A stop was requested; the scans so far are cached.
    """
    data = recipe.data
    if found is not None:
        return summarize(recipe, found)
    if data.is_puppet or not Path(data.source).exists():
        return None
    try:
        tokenizer = load_tokenizer(resolve_model(recipe.model))
    except CheckpointError as error:
        reporter.note(f"the captions are not checked: {error}")
        return None
    root = cache or cache_root() / "latents"
    with StopRequest() as stop:
        scanned = scan_data(data, tokenizer, root=root, reporter=reporter, stop=stop)
    return summarize(recipe, scanned)


def _header(chosen: ChosenRecipe) -> str:
    first = "Chosen by m2d for these clips; edit it and run `m2d train` with it."
    return "\n".join([first, *(f"  {reason}." for reason in chosen.reasons)])
