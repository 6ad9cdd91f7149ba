"""Which backends are held to the contract, and to how much of it.

`pytest tests/contract --backend NAME` holds one backend, of any package, to all of it; that it cannot work
here is then a failure. Without a name every installed backend is asked: those that cannot work here are
skipped with the reason, and what takes long is left to `-m long`: whatever compiles native code, and graphs
of other stories than one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d.backend import Backend, ExportingBackend, TrainableBackend
from m2d.errors import BackendUnavailable
from m2d.families.source import ModelSource, resolve_model
from m2d.layout import SceneLayout
from m2d.registry import available_backends, backend_names, get_backend
from tests.contract.stories import LAYOUTS, TARGETS, THREE_SCENES
from tests.m2d.model.tiny_model import build_tiny_model

# They compile for every layout: seconds to a minute each.
COMPILERS = {"compile", "aot", "tensorrt"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend",
        action="append",
        default=[],
        metavar="NAME",
        help="Hold this installed backend to the whole contract, and no other; may be repeated.",
    )


def named_backends(config: pytest.Config) -> list[str]:
    """What `--backend` names."""
    # Without a default: pytest reads this file too late for its option when it is given no path.
    named: list[str] = config.getoption("--backend", default=[])
    return named


def pytest_configure(config: pytest.Config) -> None:
    installed = backend_names()
    unknown = sorted(set(named_backends(config)) - set(installed))
    if unknown:
        raise pytest.UsageError(f"--backend: got {', '.join(unknown)}, installed: {', '.join(installed)}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        chosen = named_backends(metafunc.config) or backend_names()
        metafunc.parametrize("backend", chosen, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if named_backends(config):
        return
    for item in items:
        chosen = (
            item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        )
        name = chosen.get("backend")
        if name is not None and (name in COMPILERS or _needs_another_graph(name, chosen)):
            item.add_marker(pytest.mark.long)


def _needs_another_graph(name: str, chosen: dict[str, object]) -> bool:
    """Whether a backend has to export for a layout or targets that no other test needs: seconds each."""
    try:
        exports = isinstance(get_backend(name), ExportingBackend)
    except BackendUnavailable:
        return False
    story = chosen.get("layout", THREE_SCENES)
    return exports and (story != THREE_SCENES or chosen.get("targets", TARGETS) != TARGETS)


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A small model with random weights."""
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own: graphs are exported once for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2D_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    """A backend under test, with whatever earlier tests made it load."""
    name: str = request.param
    reasons = {status.name: status.unavailable_reason for status in available_backends("cpu")}
    if reasons[name] is not None:
        told = f"{name}: {reasons[name]}"
        if named_backends(request.config):
            pytest.fail(f"cannot work here: {told}")
        pytest.skip(told)
    return get_backend(name)


@pytest.fixture
def fresh_backend(backend: Backend) -> Backend:
    """One with nothing loaded, so that releasing it disturbs no other test."""
    return get_backend(backend.name)


@pytest.fixture(scope="session")
def exporting(backend: Backend) -> ExportingBackend:
    """A backend that runs exported graphs; others are not asked."""
    if not isinstance(backend, ExportingBackend):
        pytest.skip(f"{backend.name} runs the model itself")
    return backend


@pytest.fixture(scope="session")
def trainable(backend: Backend) -> TrainableBackend:
    """A backend to train through; others are not asked."""
    if not isinstance(backend, TrainableBackend):
        pytest.skip(f"{backend.name} does not train")
    return backend


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> SceneLayout:
    """Each of the stories."""
    return LAYOUTS[request.param]
