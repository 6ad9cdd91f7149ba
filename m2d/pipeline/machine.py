"""What frames depend on beside recipe, weights and versions: the number of CPU threads, processor and GPU.

Sums are split by thread and by vector width, and float sums depend on their order.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from m2d.devices import bfloat16_unit, cpu_fact
from m2d.video.provenance import MachineRecord

# Names of processors are free text; one that looks like a path or an address is not recorded.
_PLAIN_NAME = re.compile(r"[\w ().,+-]{1,80}", re.ASCII)


@contextmanager
def computing_with(num_threads: int | None) -> Iterator[None]:
    """Let torch use `num_threads` CPU threads while the context lasts; None changes nothing."""
    before = torch.get_num_threads()
    if num_threads in (None, before):
        yield
        return
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def this_machine(device: str, *, dtypes: Iterable[object], num_threads: int) -> MachineRecord:
    """Describe this machine: no name of it, only models of processor and GPU.

    Args:
        dtypes: The data types of transformer and VAE: in bfloat16, frames depend on the unit that multiplies.
    """
    gpu = ""
    if device.startswith("cuda") and torch.cuda.is_available():
        gpu = f"{_plain(torch.cuda.get_device_name(device), other='GPU')}, CUDA {torch.version.cuda}"
    parts = [_plain(_processor_name(), other=platform.machine()), torch.backends.cpu.get_cpu_capability()]
    if device == "cpu" and "bfloat16" in dtypes:
        parts += filter(None, [bfloat16_unit()])
    return MachineRecord(
        num_threads=num_threads,
        processor=", ".join(parts),
        gpu=gpu,
    )


def _processor_name() -> str:
    # "Some CPU @ 2.80GHz": the same chip runs at several rates.
    return cpu_fact("model name").partition("@")[0].strip() or platform.processor()


def _plain(name: str, *, other: str) -> str:
    return name if _PLAIN_NAME.fullmatch(name) else other
