"""One writer per run folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2d.errors import OutputError

FILE = ".lock"


@contextmanager
def lock_run(run: Path) -> Iterator[None]:
    """Hold `run` for this process; the folder is made if it is not there.

    Raises:
        OutputError: Another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / FILE).open("a+", encoding="ascii") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            owner = stream.read().strip() or "unknown"
            raise OutputError(
                f"{run}: process {owner} is training there; wait for it, stop it, or choose another --out"
            ) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield
