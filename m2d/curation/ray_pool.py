"""Work of the stages by Ray, on this machine or a cluster; needs the package ray.

Stands in for `m2d.data.decoder_pool.DecoderPool`. All machines see films and data set at the same paths, and
write their results there.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from m2d.data.decode import Broken
from m2d.errors import BackendUnavailable

# A busy machine may take so long to start a process, which is no fault of the input.
_START_S = 60.0
Argument = TypeVar("Argument")
Result = TypeVar("Result")


class RayPool:
    """Calls for the inputs of a stage, on as many CPUs as the cluster has."""

    def __init__(self, *, time_limit_s: float, in_actors: bool = False) -> None:
        """Join the cluster of RAY_ADDRESS, or start one on this machine.

        Args:
            time_limit_s: Time for one input; a call that takes longer is ended.
            in_actors: Whether processes are kept from the first input to the last, with the networks that
                they have loaded. Otherwise every input is a task.

        Raises:
            BackendUnavailable: The package is not installed, or the cluster cannot be reached.
        """
        self._ray, self._time_limit_s, self._in_actors = _ray(), time_limit_s, in_actors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def map(
        self, work: Callable[[Argument], Result | Broken], arguments: Iterable[Argument]
    ) -> Iterator[tuple[Argument, Result | Broken]]:
        """Yield each argument with its result, in order, while the cluster works on the next ones.

        Args:
            work: A module-level function.
        """
        calls = (_Actors if self._in_actors else _Tasks)(self._ray, work)
        # No more calls than CPUs, so that each starts at once and the time limit counts its own time.
        most = max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        waiting: deque[tuple[Argument, Any]] = deque()
        try:
            for argument in arguments:
                if len(waiting) == most:
                    first, reference = waiting.popleft()
                    yield first, self._result(calls, reference)
                waiting.append((argument, calls.start(argument)))
            while waiting:
                first, reference = waiting.popleft()
                yield first, self._result(calls, reference)
        finally:
            for _, reference in waiting:
                calls.end(reference)

    def _result(self, calls: _Tasks | _Actors, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            result = self._ray.get(reference, timeout=_START_S + self._time_limit_s)
        except errors.GetTimeoutError:
            calls.end(reference)
            return Broken(reason=f"is not decoded after {self._time_limit_s:g} s; its task was ended")
        except errors.RayTaskError as error:
            # An error of the work itself, as a process of this machine would raise it.
            raise error.cause from error
        except errors.RayError as error:
            calls.end(reference)
            return Broken(reason=f"crashes the decoder ({type(error).__name__})")
        calls.finish(reference)
        return result


class _Tasks:
    """A task for each input."""

    def __init__(self, ray: Any, work: Callable[[Any], Any]) -> None:
        self._ray, self._task = ray, ray.remote(num_cpus=1, max_retries=0)(work)

    def start(self, argument: object) -> Any:
        return self._task.remote(argument)

    def finish(self, reference: Any) -> None:
        """Do nothing: the task has ended."""

    def end(self, reference: Any) -> None:
        self._ray.cancel(reference, force=True)


class _Actors:
    """Processes that take one input after the other; one that hangs or crashes is replaced."""

    def __init__(self, ray: Any, work: Callable[[Any], Any]) -> None:
        class Worker:
            def call(self, argument: object) -> Any:
                return work(argument)

        self._ray, self._worker = ray, ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(Worker)
        self._idle: list[Any] = []
        self._busy: dict[Any, Any] = {}

    def start(self, argument: object) -> Any:
        actor = self._idle.pop() if self._idle else self._worker.remote()
        reference = actor.call.remote(argument)
        self._busy[reference] = actor
        return reference

    def finish(self, reference: Any) -> None:
        """Keep the process for the next input; without a handle, Ray ends it."""
        self._idle.append(self._busy.pop(reference))

    def end(self, reference: Any) -> None:
        self._ray.kill(self._busy.pop(reference))


def _ray() -> Any:
    # Ray reports usage to its makers otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise BackendUnavailable("cluster: it needs the package ray; pip install 'm2d[ray]'") from error
    if not ray.is_initialized():
        try:
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendUnavailable(f"cluster: Ray cannot start ({error})") from error
    return ray
