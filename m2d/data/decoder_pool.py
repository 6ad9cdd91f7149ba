"""Worker processes that decode, each with a time limit per video.

A decoder that hangs or crashes ends its process, not the training: the process is replaced and the video
counts as broken. Owns the processes; `m2d.data.decode` runs in them.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as OutOfTime
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Self, TypeVar

from m2d.data.decode import Broken
from m2d.errors import DatasetError

if TYPE_CHECKING:
    from pebble import ProcessFuture, ProcessPool

Argument = TypeVar("Argument")
Result = TypeVar("Result")
# Decoders leak memory; restarting a process now and then frees it.
_VIDEOS_PER_PROCESS = 2000
_LONGEST_START_S, _LOOK_AGAIN_S = 10.0, 0.01


class DecoderPool:
    """Worker processes; they start with the first video and end with the context."""

    def __init__(self, *, num_workers: int, time_limit_s: float) -> None:
        """Store the settings; no process starts yet.

        Args:
            num_workers: Number of processes; 0 means one, too.
            time_limit_s: Time for one video; a process that takes longer is killed.
        """
        self.num_workers = max(num_workers, 1)
        self._time_limit_s = time_limit_s
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes; a later video starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            _wait_until_started()
            pool.stop()  # type: ignore[no-untyped-call]  # pebble leaves it unannotated
            pool.join()

    def map(
        self, work: Callable[[Argument], Result | Broken], arguments: Iterable[Argument]
    ) -> Iterator[tuple[Argument, Result | Broken]]:
        """Yield each argument with its result, in order, while the processes work on the next ones.

        Args:
            work: A module-level function.

        Raises:
            DatasetError: The package that runs the processes is not installed, or they cannot start.
        """
        waiting: deque[tuple[Argument, ProcessFuture[Result | Broken]]] = deque()
        for argument in arguments:
            if self._pool is None:
                self._pool = _start(self.num_workers)
            future = self._pool.schedule(work, args=(argument,), timeout=self._time_limit_s)
            waiting.append((argument, future))
            if len(waiting) > 2 * self.num_workers:
                first, future = waiting.popleft()
                yield first, self._result(future)
        for first, future in waiting:
            yield first, self._result(future)

    def _result(self, future: ProcessFuture[Result | Broken]) -> Result | Broken:
        from pebble import ProcessExpired

        try:
            return future.result()
        except OutOfTime:
            return Broken(reason=f"is not decoded after {self._time_limit_s:g} s; its process was ended")
        except ProcessExpired as error:
            return Broken(reason=f"crashes the decoder (exit code {error.exitcode})")
        except BrokenProcessPool as error:
            raise DatasetError(
                "the processes that decode videos end as soon as they start; is there memory for them?"
            ) from error


def _start(num_workers: int) -> Any:
    try:
        from pebble import ProcessPool
    except ImportError as error:
        raise DatasetError(
            "videos are decoded in processes of their own, which needs the package pebble; "
            "pip install 'm2d[data]'"
        ) from error
    # Not forked: threads and CUDA do not survive a fork.
    context = multiprocessing.get_context("spawn")
    return ProcessPool(
        max_workers=num_workers, max_tasks=_VIDEOS_PER_PROCESS, initializer=_stand_apart, context=context
    )


def _wait_until_started() -> None:
    """Wait for processes that are starting: one that finds its pool closed prints a traceback."""
    if not hasattr(os, "getpgid"):
        return
    deadline_s = time.monotonic() + _LONGEST_START_S
    for process in multiprocessing.active_children():
        while time.monotonic() < deadline_s and process.is_alive() and not _stands_apart(process.pid):
            time.sleep(_LOOK_AGAIN_S)


def _stands_apart(pid: int | None) -> bool:
    try:
        return pid is None or os.getpgid(pid) != os.getpgid(0)
    except ProcessLookupError:
        return True


def _stand_apart() -> None:
    # The training answers signals to its process group and ends these processes itself.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
