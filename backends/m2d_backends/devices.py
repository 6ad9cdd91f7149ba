"""Whether torch can use a device here, in words for the person who asked for it; chooses none itself."""

from __future__ import annotations

import importlib.util


def device_problem(device: str) -> str | None:
    """Say why torch cannot run on `device`, or None when it can.

    Args:
        device: As in a recipe: `cpu`, `cuda`, `cuda:1`.
    """
    if importlib.util.find_spec("torch") is None:
        return "the package torch is not installed"
    import torch

    kind, _, index = device.partition(":")
    if kind == "cpu" and not index:
        return None
    if kind != "cuda" or (":" in device and not index.isdecimal()):
        return f"device {device!r} is not known; use cpu, cuda or cuda:N"
    if torch.version.cuda is None:
        return f"device {device!r}: torch {torch.__version__} was built without CUDA; use cpu or a CUDA build"
    if not torch.cuda.is_available():
        return f"device {device!r}: torch finds no CUDA device or driver; use cpu"
    if index and int(index) >= torch.cuda.device_count():
        return f"device {device!r}: there are {torch.cuda.device_count()} CUDA devices, counted from 0"
    return None
