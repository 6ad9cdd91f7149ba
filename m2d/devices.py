"""The devices that m2d computes on: their names, and what this machine's CPU is fast at. Imports no torch.

Each backend checks whether a device is available here.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from m2d.reading import read_bytes

DEVICE_NAMES = "cpu, cuda or cuda:N"
_CPU_INFO, _LONGEST_INFO_BYTES = Path("/proc/cpuinfo"), 16 << 20
# Flags of the units that multiply in bfloat16, the fastest first.
_BFLOAT16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16"}
_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,2})?")


def is_device_name(name: str) -> bool:
    """Whether `name` is one of `DEVICE_NAMES`."""
    return _DEVICE.fullmatch(name) is not None


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies faster in bfloat16 than in float32: with AMX or AVX-512 BF16, on Linux."""
    return bool(bfloat16_unit())


def bfloat16_unit() -> str:
    """Return the name of the CPU's unit that multiplies in bfloat16, on Linux; empty without one."""
    flags = cpu_fact("flags").split()
    return next((name for flag, name in _BFLOAT16_UNITS.items() if flag in flags), "")


def cpu_fact(name: str) -> str:
    """Return what Linux lists of the first CPU: its `flags`, its `model name`; empty if it lists none."""
    with suppress(OSError):
        facts = read_bytes(_CPU_INFO, limit_bytes=_LONGEST_INFO_BYTES).decode("utf-8", "replace")
        for line in facts.splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""
