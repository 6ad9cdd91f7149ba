"""Why torch cannot use a device here; chooses no device itself."""

from __future__ import annotations

import importlib.util

from m2d.devices import DEVICE_NAMES, is_device_name


def device_problem(device: str) -> str | None:
    """Say why torch cannot run on a device such as `cuda:1`, or None when it can."""
    if importlib.util.find_spec("torch") is None:
        return "the package torch is not installed"
    import torch

    if not is_device_name(device):
        return f"device {device!r} is not known; use {DEVICE_NAMES}"
    if device == "cpu":
        return None
    if torch.version.cuda is None:
        return f"device {device!r}: torch {torch.__version__} was built without CUDA; use cpu or a CUDA build"
    if not torch.cuda.is_available():
        return f"device {device!r}: torch finds no CUDA device or driver; use cpu"
    index = device.partition(":")[2]
    if index and int(index) >= torch.cuda.device_count():
        return f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0"
    return None
