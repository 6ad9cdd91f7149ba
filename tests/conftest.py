"""Settings of the whole test suite."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from m2d import disk
from m2d.pipeline import planning

# No time limit per example: a busy machine would fail tests that are right. The same examples in every run.
settings.register_profile("m2d", deadline=None, derandomize=True)
settings.load_profile("m2d")

NUM_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True, scope="session")
def nothing_is_synced() -> Iterator[None]:
    """Tests read files back while the machine runs, and a disk takes milliseconds for each sync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard() -> None:
    """Shells start background jobs, and with them their children, with Ctrl-C ignored; tests press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def cpu_without_bfloat16() -> Iterator[None]:
    """Tests compute the same on every processor: in float32, which is faster for models of their size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "cpu_has_bfloat16", lambda: False)
        yield


@pytest.fixture(autouse=True, scope="session")
def cache_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user has in the cache changes neither a test's result nor its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2D_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    """Another number of threads rounds differently: one test's must not change the bits of the next."""
    torch.set_num_threads(NUM_THREADS)
    yield
    torch.set_num_threads(NUM_THREADS)
