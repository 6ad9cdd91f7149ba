"""A disk that fails at a chosen operation: all that m2d changes on disk goes through these seams."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from m2d import disk, lock

OPERATIONS = ("open_file", "write_all", "fsync", "replace", "unlink", "mkdir", "rmdir")
SEAMS = (
    *((disk, name) for name in OPERATIONS),
    *((lock, name) for name in ("_open", "_write")),
)
CRASHED = 77


@dataclass(kw_only=True)
class FaultyDisk:
    """Counts operations and lets `fault` happen in place of operation number `at`, from 1.

    A write that fails has written half of its bytes. Syncing does nothing: a process that ends leaves to the
    next one what it wrote, synced or not, and tests are quicker.

    Attributes:
        at: The operation; 0: none.
        fault: Called in its place.
        stays: Whether all later operations fail, too.
        done: The operations so far, by name.
    """

    at: int = 0
    fault: Callable[[], None] = lambda: None
    stays: bool = False
    done: list[str] = field(default_factory=list)

    @property
    def has_failed(self) -> bool:
        return 0 < self.at <= len(self.done)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module, name in SEAMS:
            patch.setattr(module, name, self._wrapped(name, getattr(module, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any) -> Any:
            self.done.append(name)
            if len(self.done) == self.at or (self.stays and self.has_failed):
                if name in ("write_all", "_write"):
                    descriptor, data = args
                    real(descriptor, bytes(data)[: len(data) // 2])
                self.fault()
            return None if name == "fsync" else real(*args)

        return operation


def crash() -> None:
    """End the process as a kill would: nothing is flushed, closed or cleaned up."""
    os._exit(CRASHED)


def refuse(code: int) -> Callable[[], None]:
    """Make a fault that raises the OSError of an errno."""

    def fault() -> None:
        raise OSError(code, os.strerror(code))

    return fault


def run_until_crash(work: Callable[[Callable[[], None]], object], *, at: int) -> tuple[bool, int]:
    """Run `work` in a child process that crashes in place of its disk operation number `at`.

    Args:
        work: Is given a function that it calls after everything it has finished.
        at: The operation, from 1.

    Returns:
        Whether it crashed, and how many things it had finished.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with pytest.MonkeyPatch.context() as patch:
                FaultyDisk(at=at, fault=crash).install(patch)
                work(lambda: _tell(writer))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        finished = len(told.read())
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, CRASHED), f"operation {at}: the child failed with {code}"
    return code == CRASHED, finished


def _tell(writer: int) -> None:
    os.write(writer, b".")
