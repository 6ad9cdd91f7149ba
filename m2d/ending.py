"""Ends a process of a distributed run before Python's finalization.

With FSDP, gloo's threads outlive their process group and take the GIL to free the last tensors they sent.
Python before 3.14 ends a thread that requests the GIL during finalization, and C++ then aborts with
`terminate called without an active exception`: a completed, saved training would report SIGABRT.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from m2d.errors import EXIT_FAILED


@contextmanager
def no_finalization_in_a_group(variables: Mapping[str, str]) -> Iterator[None]:
    """Run a program; a process that a launcher started with others ends in its last `atexit` callback.

    Callbacks registered later run before it; output is flushed and the exit code kept. A single process ends
    as usual.

    Args:
        variables: The environment, in which launchers say how many processes there are (`WORLD_SIZE`).
    """
    if variables.get("WORLD_SIZE", "1") == "1":
        yield
        return
    # Python's exit code after an uncaught exception.
    status = EXIT_FAILED

    def end() -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                # None if the program was started without it.
                if stream is not None:
                    stream.flush()
        finally:
            os._exit(status)

    atexit.register(end)
    try:
        yield
        status = 0
    except SystemExit as asked:
        # As in Python: None is 0, and a text means 1.
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        raise
