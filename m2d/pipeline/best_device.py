"""The best device of this machine. Imports torch only where a CUDA driver is installed."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


@cache
def best_device() -> str:
    """Return `cuda` where torch can use it, and `cpu` elsewhere."""
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
