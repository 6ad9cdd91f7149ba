"""How one process of several ends: at once, before Python is taken apart.

torch's threads that talk to other processes (gloo's) outlive their group where FSDP keeps it, and take
Python's lock to let go of the last tensors they sent. Python before 3.14 ends a thread that asks for its lock
while it is taken apart, which C++ answers with `terminate called without an active exception`: a training
that is done and saved would report SIGABRT. Such a process therefore ends before that.
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
    """Run a whole program; one that a launcher started with others ends with its last `atexit` callback.

    Everything registered later than this is called before, and what was printed is written out. Exit codes
    are the program's own. A process alone ends as ever.

    Args:
        variables: The environment, in which launchers say how many processes there are (`WORLD_SIZE`).
    """
    if variables.get("WORLD_SIZE", "1") == "1":
        yield
        return
    # What Python gives for an exception that nobody caught.
    status = EXIT_FAILED

    def end() -> None:
        try:
            for stream in (sys.stdout, sys.stderr):
                # None where nobody reads it any more.
                if stream is not None:
                    stream.flush()
        finally:
            os._exit(status)

    atexit.register(end)
    try:
        yield
        status = 0
    except SystemExit as asked:
        # As Python reads it: nothing is 0, words are printed and 1.
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
        raise
