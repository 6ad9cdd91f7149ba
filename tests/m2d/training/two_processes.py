"""What the tests of several processes run under a launcher: tiny trainings, one after the other.

Usage: python -m tests.m2d.training.two_processes FOLDER [deepspeed]. Each case leaves its run in a folder of
its name.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from m2d.ending import no_finalization_in_a_group
from m2d.errors import M2DError
from m2d.progress import SilentReporter
from m2d.stop import StopRequest
from m2d.training.launcher import Sharing
from m2d.training.processes import Processes, start_processes
from m2d.training.sharding import local, stored, whole
from m2d.training.speed import flops_per_sample
from m2d.training.start import frozen_digest, new_state, read_start
from m2d.training.state import find_checkpoint, load_checkpoint, save_checkpoint
from m2d.training.trainer import Trainer
from m2d.training.validation import open_watchers
from m2d.video.run_folder import read_run
from tests.m2d.faults import FaultyDisk, refuse
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.training.conftest import tiny_recipe, tiny_setup, tiny_state, tiny_stories

COMMON: dict[str, Any] = {
    "log_every_steps": 1,
    "schedule": {"name": "constant", "warmup_steps": 2},
    "evaluation": {"every_steps": 25, "num_samples": 6},
}
STORY = {
    "title": "Some balls",
    "scenes": ["a red ball", "a blue ball"],
    "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0, "seed": 5},
    "video": {"num_frames": 5, "height": 16, "width": 16},
}
SAVING = {"accumulate": 2, "gradient_checkpointing": True}


class Case(NamedTuple):
    """A training: how it is shared, after how many steps it stops each time, and its recipe's changes."""

    sharing: Sharing
    stops: tuple[int, ...]
    changes: dict[str, Any]


CASES = {
    "ddp": Case("ddp", (50,), {}),
    "fsdp2": Case("fsdp2", (50,), {}),
    "ddp-saving": Case("ddp", (8,), SAVING),
    "fsdp2-saving": Case("fsdp2", (8,), SAVING),
    "fsdp2-stopped": Case("fsdp2", (3, 5, 8), SAVING),
}
ADAMW = {"optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.01}}
# DDP comes first: ZeRO-3 replaces torch's linear layers for the rest of the process.
DEEPSPEED_CASES = {"ddp-bfloat16": Case("ddp", (8,), {**ADAMW, "precision": "bfloat16"})} | {
    f"{sharing}{suffix}": Case(sharing, stops, {**ADAMW, **changes})
    for sharing in ("zero2", "zero3")
    for suffix, stops, changes in (
        ("", (50,), {}),
        ("-saving", (8,), SAVING),
        ("-stopped", (3, 5, 8), SAVING),
        ("-bfloat16", (8,), {"precision": "bfloat16"}),
    )
}


def train(case: Case, folder: Path, run: Path, processes: Processes) -> None:
    processes = dataclasses.replace(processes, sharing=case.sharing)
    stories = tiny_stories(folder / f"cache-{processes.index}")
    for stop in case.stops:
        recipe = tiny_recipe(steps=stop, **COMMON, **case.changes)
        state = tiny_state(recipe, processes)
        path = find_checkpoint(run).path
        if path is not None:
            load_checkpoint(path, state)
        setup = tiny_setup(recipe, stories, run=run, processes=processes)
        Trainer(setup, state, reporter=SilentReporter(), stop=StopRequest()).run()


def refuse_a_save(folder: Path, processes: Processes) -> None:
    """Let the disk of the process that writes be full, and write down what each process says then."""
    processes = dataclasses.replace(processes, sharing="fsdp2")
    with pytest.MonkeyPatch.context() as patch:
        if processes.is_main:
            FaultyDisk(at=6, fault=refuse(errno.ENOSPC)).install(patch)
        try:
            save_checkpoint(
                folder / "refused",
                tiny_state(tiny_recipe(), processes),
                facts={},
                keep=1,
                processes=processes,
            )
        except M2DError as error:
            complaint = f"{error.exit_code}: {error}"
    (folder / f"complaint-{processes.index}.txt").write_text(complaint)


def carry(folder: Path, processes: Processes) -> None:
    """Take a checkpoint from one way of sharing to the next, and save it again each time."""
    path = find_checkpoint(folder / "zero3").path
    for sharing in ("zero2", "zero3"):
        ours = dataclasses.replace(processes, sharing=sharing)
        state = tiny_state(tiny_recipe(**ADAMW), ours)
        assert path is not None
        load_checkpoint(path, state)
        path = save_checkpoint(folder / f"carried-{sharing}", state, facts={}, keep=1, processes=ours)
        setup = tiny_setup(
            tiny_recipe(), tiny_stories(folder / f"cache-{processes.index}"), run=folder, processes=ours
        )
        flops = flops_per_sample(state.model, next(iter(setup.layouts.values())))
        (folder / f"flops-{sharing}-{processes.index}.txt").write_text(str(flops))


def diverge(folder: Path, processes: Processes) -> None:
    """Let a gradient be infinite in the second process, and write down what each process says then."""
    run = folder / f"diverged-{processes.sharing}"
    recipe = tiny_recipe(**COMMON, **ADAMW)
    state = tiny_state(recipe, processes)
    setup = tiny_setup(
        recipe, tiny_stories(folder / f"cache-{processes.index}"), run=run, processes=processes
    )
    trainer = Trainer(setup, state, reporter=SilentReporter(), stop=StopRequest())
    before = [whole(tensor).clone() for tensor in stored(state.model).values()]
    if not processes.is_main:
        # Through the loss's own backward pass: the loss itself stays finite.
        state.model.get_submodule("proj_out").register_full_backward_hook(
            lambda _, grads, __: tuple(grad * torch.inf if grad is not None else None for grad in grads)
        )
    try:
        trainer.run()
    except M2DError as error:
        complaint = f"{type(error).__name__}: {error}"
    after = [whole(tensor) for tensor in stored(state.model).values()]
    moved = not all(map(torch.equal, before, after))
    (folder / f"diverged-{processes.sharing}-{processes.index}.txt").write_text(f"moved {moved}\n{complaint}")


def make_films(folder: Path, processes: Processes) -> None:
    """Make a film of the averaged weights, which are others than the model's, after a step."""
    folder.mkdir(exist_ok=True)
    model = build_tiny_model(folder / f"model-{processes.index}")
    story = folder / f"balls-{processes.index}.yaml"
    story.write_text(json.dumps(STORY), encoding="utf-8")
    recipe = tiny_recipe(
        model=str(model),
        init=str(model),
        transformer=None,
        video={"num_frames": 9, "height": 32, "width": 32},
        validation={"stories": [str(story)], "every_steps": 3},
        **ADAMW,
    )
    start = read_start(model)
    state = new_state(recipe, start, processes)
    with torch.no_grad():
        for weight in state.average.model.parameters():
            local(weight).mul_(0.9)
    stories = tiny_stories(folder / f"cache-{processes.index}")
    setup = tiny_setup(recipe, stories, run=folder / "run", processes=processes)
    setup = dataclasses.replace(setup, facts={"transformer": start.config})
    watchers = open_watchers(setup, model_folder=model, reporter=SilentReporter())
    for state.step in (2, 3):
        for watcher in watchers.of_steps:
            watcher(state)


def film_made_in(folder: Path) -> tuple[str, str | None, str]:
    """What `make_films` left: the step, and digests of the frames and of the weights that made them."""
    (film,) = (folder / "run" / "validation").glob("*/*.mp4")
    made = read_run(film).provenance
    return film.parent.name, made.frames_sha256, made.runs[0].model.digest


def digest_of_frozen(folder: Path, processes: Processes) -> str:
    """What a checkpoint of adapters says about the weights that they belong to."""
    model = build_tiny_model(folder / f"adapted-{processes.index}")
    recipe = tiny_recipe(
        model=str(model),
        init=str(model),
        transformer=None,
        lora={"rank": 2},
        optimizer={"name": "adamw", "lr": 1e-3},
    )
    return frozen_digest(new_state(recipe, read_start(model), processes).model)


def main(folder: Path, words: list[str]) -> None:
    torch.set_num_threads(1)
    processes = start_processes("cpu")
    (folder / f"sharing-{processes.index}.txt").write_text(processes.sharing)
    for name, case in (DEEPSPEED_CASES if words else CASES).items():
        train(case, folder, folder / name, processes)
    if words:
        carry(folder, processes)
        for sharing in ("zero2", "zero3"):
            diverge(folder, dataclasses.replace(processes, sharing=sharing))
        make_films(folder / "films", dataclasses.replace(processes, sharing="zero3"))
    else:
        refuse_a_save(folder, processes)
        sharded = dataclasses.replace(processes, sharing="fsdp2")
        make_films(folder / "films", sharded)
        (folder / f"frozen-{processes.index}.txt").write_text(digest_of_frozen(folder, sharded))
    processes.leave()


if __name__ == "__main__":
    with no_finalization_in_a_group(os.environ):
        main(Path(sys.argv[1]), sys.argv[2:])
