"""Names of the devices that m2d computes on; each backend checks whether one is available here."""

from __future__ import annotations

import re

DEVICE_NAMES = "cpu, cuda or cuda:N"
_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,2})?")


def is_device_name(name: str) -> bool:
    """Whether `name` is one of `DEVICE_NAMES`."""
    return _DEVICE.fullmatch(name) is not None
