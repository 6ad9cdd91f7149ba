"""Python's garbage collector, kept from searching where nothing can be found.

Importing torch, diffusers and transformers makes some hundred thousand objects that all stay. The collector
looks through them again and again while they are made, a quarter of the imports' time, and once more when the
process ends, for a second.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collection() -> Iterator[None]:
    """Search for no garbage while the context lasts; for imports, whose objects stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def end_without_collection() -> None:
    """Have this process end without a last search: all of its memory goes back to the system anyway."""
    atexit.register(gc.freeze)
