"""Pauses Python's garbage collector where it finds nothing.

Importing torch, diffusers and transformers makes some hundred thousand objects that stay alive. Collecting
takes a quarter of the imports' time, and another second when the process ends.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Disable garbage collection within the block, for imports and large tables: their objects stay alive."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def end_without_collection() -> None:
    """Skip the last collection when this process ends: the system frees all memory anyway."""
    atexit.register(gc.freeze)
