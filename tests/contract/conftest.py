"""Which part of the contract runs in every test run: all of it for eager, one story for exported graphs."""

from __future__ import annotations

import pytest

from m2d.backend import ExportingBackend
from m2d.registry import get_backend

# A graph is exported for every layout and choice of targets: seconds each, so the others are long.
STORY = "three scenes"
TARGETS = (0, 2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        chosen = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        name = chosen.get("backend")
        if name is None or not isinstance(get_backend(name), ExportingBackend):
            continue
        story = chosen.get("layout", chosen.get("case", STORY))
        if story != STORY or chosen.get("targets", TARGETS) != TARGETS:
            item.add_marker(pytest.mark.long)
