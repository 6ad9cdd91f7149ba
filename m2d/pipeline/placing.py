"""From a run plan and a device to what the run takes there, and to the memory mode it runs in.

`m2d.placement.prediction` counts and chooses; this file knows plans, and measures this machine.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch

from m2d.errors import BackendUnavailable, InputError
from m2d.families.source import ModelSource
from m2d.model.components import COMPONENTS
from m2d.model.folder import find_weights
from m2d.pipeline.window import is_guided, run_dtype, window_options
from m2d.placement.cards import CARDS, find_card
from m2d.placement.modes import MODE_MEANS, SLOW_MODES, MemoryMode
from m2d.placement.prediction import (
    Choice,
    FilmNeeds,
    FilmWork,
    StageNeeds,
    Target,
    WindowWork,
    card_target,
    choose,
    film_needs,
    gib,
    least_memory,
    measured_target,
)
from m2d.progress import Reporter
from m2d.reading import read_text
from m2d.recipe.plan import RunPlan, WindowPlan

# A transformer of fewer weights fits every device that computes; counting would take longer than it helps.
_FEW_WEIGHTS = 100_000_000
# Below it, a CPU's hours are worth a warning.
_LONG_S = 3600.0
_HALF = ("bfloat16", "float16")
_GEMM_ROWS = {"cpu": 1024, "cuda": 8192}
_GEMM_S = 0.1
# PCIe 4.0 with 16 lanes, as it is reached; a faster link makes the prediction cautious.
_BUS_BYTES = 25e9
_LONGEST_NUMBER = 64
_GROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


class TooLittleMemory(BackendUnavailable):
    """No memory mode fits the free memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a run takes on a device, and the modes that it runs in.

    Attributes:
        tokens: Text and video tokens of the largest window.
        least_bytes: Free memory that the choice needs.
    """

    target: Target
    choice: Choice
    stages: tuple[StageNeeds, ...]
    tokens: int
    least_bytes: int

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(stage.seconds for stage in self.stages)

    def record(self) -> dict[str, Any]:
        """Return what a run stores, as JSON values."""
        return {
            "memory": self.choice.memory,
            "decode": self.choice.decode,
            "device": self.target.name,
            "tokens": self.tokens,
            "stages": {
                stage.name: {
                    "operations": stage.flops,
                    "seconds": round(stage.seconds, 1),
                    "peak_bytes": stage.peak_bytes,
                }
                for stage in self.stages
            },
        }

    def problem(self) -> str:
        """Say that no mode fits, and what would do."""
        return (
            f"memory: {self.choice.reason}; at least {gib(self.least_bytes)} would do. Smaller pictures, "
            "fewer frames, guidance one prediction at a time, bfloat16 or quantized weights need less"
        )

    def warnings(self, *, device: str) -> list[str]:
        """Return warnings about a slow mode, or a CPU that takes hours."""
        found = []
        if self.choice.memory in SLOW_MODES:
            found.append(f"memory {self.choice.memory} is slow: {MODE_MEANS[self.choice.memory]}")
        if device == "cpu" and self.target.is_measured and self.seconds > _LONG_S:
            found.append(
                f"on the CPU this takes about {self.seconds / 3600:,.0f} hours, by prediction; use a GPU"
            )
        return found


def place(
    plans: Sequence[RunPlan],
    *,
    modes: Sequence[MemoryMode],
    reporter: Reporter,
    num_given: int = 0,
    stays_loaded: bool = False,
) -> Prediction | None:
    """Choose the memory mode of runs that follow each other, and report it.

    Args:
        modes: Memory modes of the backend.
        num_given: Scenes before the first run that the VAE encodes.
        stays_loaded: Whether all parts stay on the device when they are kept there as a whole.

    Returns:
        What was predicted; None for a small model, or where there is nothing to choose.

    Raises:
        TooLittleMemory: The mode is to be chosen, and none fits.
    """
    plan = plans[0]
    if _is_small(plan.source) or len(modes) == 1 or not can_predict(plan.device):
        return None
    prediction = predict(plans, modes=modes, num_given=num_given, stays_loaded=stays_loaded)
    choice = prediction.choice
    if not choice.is_fitting:
        if plan.memory == "auto":
            raise TooLittleMemory(prediction.problem())
        reporter.warn(prediction.problem())
    reporter.note(f"memory {choice.memory}, {MODE_MEANS[choice.memory]}: {choice.reason}")
    for warning in prediction.warnings(device=plan.device):
        reporter.warn(warning)
    return prediction


def _is_small(source: ModelSource) -> bool:
    if source.is_embedded:
        return True
    stored = find_weights(source.path, "transformer", COMPONENTS["transformer"].stem)
    return sum(prod(tensor.shape) for tensor in stored.values()) < _FEW_WEIGHTS


def predict(
    plans: Sequence[RunPlan],
    *,
    modes: Sequence[MemoryMode],
    gpu: str | None = None,
    num_given: int = 0,
    stays_loaded: bool = False,
) -> Prediction:
    """Predict runs that follow each other.

    Args:
        modes, num_given, stays_loaded: As in `place`.
        gpu: A card of the table; None is the plan's device on this machine.

    Raises:
        InputError: The table has no such card.
    """
    plan = plans[0]
    target = target_of(plan, gpu=gpu)
    # On a CPU all weights are in the CPU's memory in every mode.
    usable = modes if gpu is not None or plan.device != "cpu" else modes[:1]
    needs = needs_of(plans, num_given=num_given, stays_loaded=stays_loaded)
    choice = choose(needs, target, memory=plan.memory, decode=plan.decode, modes=usable)
    return Prediction(
        target=target,
        choice=choice,
        stages=needs.stages(choice, target.rates),
        tokens=needs.tokens,
        least_bytes=least_memory(needs, choice),
    )


def needs_of(plans: Sequence[RunPlan], *, num_given: int = 0, stays_loaded: bool = False) -> FilmNeeds:
    """Count what runs that follow each other take; arguments are those of `place`."""
    plan = plans[0]
    geometry, shape = plan.source.geometry, plan.scene_geometry
    windows = [(each, part) for each in plans for part in each.windows]
    continued = [
        scene
        for each, part in windows
        for scene in part.window.targets
        if each.scenes[scene].join.kind == "continue"
    ]
    starts = [scene for each, part in windows for scene in part.window.targets if each.scenes[scene].image]
    prompts = {text for each, part in windows for text in _texts(each, part)}
    made = sorted({scene for _, part in windows for scene in part.window.targets})
    work = FilmWork(
        family=plan.source.family,
        configs=plan.source.configs,
        dtype=run_dtype(plan),
        vae_dtype=getattr(torch, plan.vae_dtype),
        quantized=plan.quantized,
        latent_size=(shape.latent_height, shape.latent_width),
        windows=[_window_work(each, part) for each, part in windows],
        scenes=[plans[-1].scenes[scene].geometry.num_latent_frames for scene in made],
        num_prompts=len(prompts),
        num_given=num_given,
        num_images=len(made) if geometry.image_channels else len(starts),
        num_continued=len(continued),
        stays_loaded=stays_loaded,
    )
    return film_needs(work)


def _texts(plan: RunPlan, part: WindowPlan) -> list[str]:
    scenes = [plan.scenes[scene] for scene in part.window.scenes]
    negatives = [scene.negative_prompt for scene in scenes] if is_guided(plan, part) else []
    return [*(scene.prompt for scene in scenes), *negatives]


def _window_work(plan: RunPlan, part: WindowPlan) -> WindowWork:
    options = window_options(plan, part)
    passes = 2 if is_guided(plan, part) and options.batch_size == 1 else 1
    return WindowWork(
        layout=part.layout,
        num_calls=plan.sampling.num_inference_steps * passes,
        batch_size=options.batch_size,
        targets=options.targets,
    )


def can_predict(device: str) -> bool:
    """Whether a device is on this machine, so that its memory and rate can be measured."""
    return device == "cpu" or torch.cuda.is_available()


def target_of(plan: RunPlan, *, gpu: str | None = None) -> Target:
    """Return the device that a prediction is for.

    Args:
        gpu: A card of the table; None is the plan's device on this machine.

    Raises:
        InputError: The table has no such card.
    """
    if gpu is None:
        return _this_device(plan.device, plan.dtype)
    card = find_card(gpu)
    if card is None:
        known = ", ".join(each.name for each in CARDS)
        raise InputError(f"{gpu!r} is not in the table; known: {known}", argument="gpu")
    return card_target(card, is_half=plan.dtype in _HALF, is_vae_half=plan.vae_dtype in _HALF)


@lru_cache(maxsize=8)
def _this_device(device: str, dtype: str) -> Target:
    flops = _measured_flops(device, getattr(torch, dtype))
    if device == "cpu":
        return measured_target("the CPU", free_bytes=free_host_bytes(), flops=flops, bus_bytes=None)
    free, _ = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return measured_target(name, free_bytes=free, flops=flops, bus_bytes=_BUS_BYTES)


def _measured_flops(device: str, dtype: torch.dtype) -> float:
    """Time products of large matrices; return operations per second."""
    rows = _GEMM_ROWS[device.partition(":")[0]]
    left = torch.ones(rows, rows, dtype=dtype, device=device)
    out = left @ left
    num_done, began_s = 0, time.perf_counter()
    while time.perf_counter() - began_s < _GEMM_S:
        torch.mm(left, left, out=out)
        if device != "cpu":
            torch.cuda.synchronize(device)
        num_done += 1
    return 2 * rows**3 * num_done / (time.perf_counter() - began_s)


def free_host_bytes() -> int:
    """Return the memory that this process can still use: the system's, or its control group's if less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (read_text(path, limit_bytes=_LONGEST_NUMBER).strip() for path in _GROUP)
        return min(free, max(int(limit) - int(used), 0)) if limit != "max" else free
    except (OSError, ValueError):
        # No control group limits this process.
        return free
