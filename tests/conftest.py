"""Settings of the whole test suite."""

from __future__ import annotations

from hypothesis import settings

# No time limit per example: a busy machine would fail tests that are right. The same examples in every run.
settings.register_profile("m2d", deadline=None, derandomize=True)
settings.load_profile("m2d")
