"""The machine that a training runs on, as far as its recipe depends on it."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from m2d.devices import cpu_has_bfloat16
from m2d.training.recipe import Device


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What a training runs on.

    Attributes:
        memory_bytes: Memory of one device; on a CPU, of the machine.
        has_bfloat16: Whether it multiplies faster in bfloat16 than in float32.
        num_processes: Processes that share the training.
    """

    device: Device
    memory_bytes: int
    num_cores: int
    has_bfloat16: bool = False
    num_processes: int = 1


def this_machine(*, num_processes: int = 1) -> Machine:
    """Return the device that a training uses by default here: a GPU if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    is_gpu = torch.cuda.is_available()
    if is_gpu:
        size_bytes = torch.cuda.get_device_properties(0).total_memory
    else:
        size_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // num_processes
    return Machine(
        device="cuda" if is_gpu else "cpu",
        memory_bytes=size_bytes,
        num_cores=cores,
        has_bfloat16=is_gpu or cpu_has_bfloat16(),
        num_processes=num_processes,
    )
