"""Puppet: train the parts of the embedded model, and pack them into a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from m2d.errors import InputError
from m2d.lock import hold
from m2d.progress import Reporter
from m2d.puppet.training.fitting import run_fit
from m2d.puppet.training.pack import PackPlan, pack_model
from m2d.puppet.training.parts import PARTS, Part
from m2d.recipe.loader import load_document
from m2d.stop import StopRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class PartPlan:
    """The training of one part.

    Attributes:
        run: Run folder; training resumes from its newest checkpoint that verifies.
        max_minutes: Save a checkpoint and stop after so many minutes.
        num_threads: CPU threads; None leaves torch's choice.
    """

    part: Part
    recipe: Path
    run: Path
    max_minutes: float | None = None
    num_threads: int | None = None


def train_part(plan: PartPlan, reporter: Reporter) -> Path:
    """Train one part; return the run folder.

    Raises:
        RecipeError: The recipe is wrong.
        Interrupted: A signal came; a checkpoint was saved.
    """
    if plan.num_threads is not None:
        torch.set_num_threads(plan.num_threads)
    training = PARTS[plan.part]
    recipe = load_document(plan.recipe, training.recipe)
    fit = training.make_fit(recipe, plan.run)
    with StopRequest() as stop, hold(plan.run, what="training there"):
        run_fit(fit, recipe, reporter=reporter, stop=stop, max_minutes=plan.max_minutes)
    return plan.run


def pack(plan: PackPlan, reporter: Reporter) -> Path:
    """Write the model folder.

    Raises:
        InputError: Neither a run nor a base model for the VAE or the text encoder.
        M2DError: As `pack_model`.
    """
    missing = [flag for flag, run in (("--codec", plan.vae_run), ("--text", plan.text_run)) if run is None]
    if missing and plan.base is None:
        raise InputError(f"{', '.join(missing)}: missing; give a run folder, or --base to take a model's")
    return pack_model(plan, reporter)
