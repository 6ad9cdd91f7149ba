"""When the garbage collector does not run, and that it does afterwards."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from m2d.garbage import no_collection

_PROGRAM = """
import atexit, gc
from m2d.garbage import end_without_collection
# Registered first, so run last.
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
end_without_collection()
print(gc.get_freeze_count() > 1000)
"""


def test_no_collection_while_it_lasts_and_again_after_it_even_when_it_fails() -> None:
    with no_collection():
        assert not gc.isenabled()
    assert gc.isenabled()

    with pytest.raises(ImportError), no_collection():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_process_ends_with_nothing_left_to_search() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]
