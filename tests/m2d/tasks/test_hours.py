"""A film of hours is extended in the memory of a film of minutes."""

from __future__ import annotations

import pytest

from benchmarks.hours import measure


@pytest.mark.long
def test_two_hours_take_the_memory_of_two_minutes() -> None:
    report = measure()
    assert report["holds"], report
