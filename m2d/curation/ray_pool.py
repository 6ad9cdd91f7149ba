"""Work of the stages as Ray tasks, on this machine or a cluster; needs the package ray.

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
    """A task for each input; Ray's processes keep their networks from task to task."""

    def __init__(self, *, time_limit_s: float) -> None:
        """Join the cluster of RAY_ADDRESS, or start one on this machine.

        Args:
            time_limit_s: Time for one input; a task that takes longer is ended.

        Raises:
            BackendUnavailable: The package is not installed, or the cluster cannot be reached.
        """
        self._ray, self._time_limit_s = _ray(), time_limit_s

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
        task = self._ray.remote(num_cpus=1, max_retries=0)(work)
        # No more tasks than CPUs, so that each starts at once and the time limit counts its own time.
        most = max(int(self._ray.cluster_resources().get("CPU", 1)), 1)
        waiting: deque[tuple[Argument, Any]] = deque()
        try:
            for argument in arguments:
                if len(waiting) == most:
                    first, reference = waiting.popleft()
                    yield first, self._result(reference)
                waiting.append((argument, task.remote(argument)))
            while waiting:
                first, reference = waiting.popleft()
                yield first, self._result(reference)
        finally:
            for _, reference in waiting:
                self._ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference, timeout=_START_S + self._time_limit_s)
        except errors.GetTimeoutError:
            self._ray.cancel(reference, force=True)
            return Broken(reason=f"is not decoded after {self._time_limit_s:g} s; its task was ended")
        except errors.RayTaskError as error:
            # An error of the work itself, as a process of this machine would raise it.
            raise error.cause from error
        except errors.RayError as error:
            return Broken(reason=f"crashes the decoder ({type(error).__name__})")


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
