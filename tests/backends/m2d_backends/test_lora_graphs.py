"""LoRAs in backends: loaded once, part of a graph's key, and baked into graphs to the last scene."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from m2d_backends.eager import EagerBackend
from torch import Tensor

from m2d.backend import Backend, BackendOptions, ExportingBackend
from m2d.errors import ArtifactMissing
from m2d.families.source import ModelSource, resolve_model
from m2d.model.lora_file import LoraUse
from m2d.registry import get_backend
from tests.backends.m2d_backends.tiny_graphs import LAYOUT
from tests.m2d.model.lora_files import use_of
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, build_tiny_model

# The requirement on every backend: float32, relative to the largest output.
CLOSE = 1e-5
Uses = tuple[LoraUse, ...]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> Uses:
    """One of all scenes, one of the first and the last, one of a scene that is not in the layout."""
    folder = tmp_path_factory.mktemp("loras")
    return (
        use_of(folder / "all", 1),
        use_of(folder / "two", 2, scenes=(0, 2), scale=0.5),
        use_of(folder / "none", 3, scenes=()),
    )


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))


def options(uses: Uses = (), **changes: object) -> BackendOptions:
    given = {"targets": (1, 2), "latent_size": (4, 4), "loras": uses, **changes}
    return BackendOptions(**given)  # type: ignore[arg-type]


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return (
        torch.randn(1, 6, LATENT_CHANNELS, 4, 4, generator=draws),
        torch.randn(1, 15, TEXT_WIDTH, generator=draws),
        torch.tensor([[0, 700, 700]]),
    )


def velocity(backend: Backend, source: ModelSource, asked: BackendOptions) -> Tensor:
    return backend.prepare(source, LAYOUT, asked).predict(*inputs())


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=CLOSE * expected.abs().max().item())


def test_windows_share_the_weights_and_other_strengths_do_not(source: ModelSource, uses: Uses) -> None:
    backend = EagerBackend()
    loaded = backend.load(source, options(uses))
    moved = (uses[0], replace(uses[1], scenes=(1,)), replace(uses[2], scenes=(2,)))
    assert backend.load(source, options(moved)) is loaded
    assert not torch.equal(
        velocity(backend, source, options(moved)), velocity(backend, source, options(uses))
    )
    assert backend.load(source, options((replace(uses[0], scale=2.0), *uses[1:]))) is not loaded
    plain = velocity(EagerBackend(), source, options())
    assert torch.equal(velocity(backend, source, options()), plain)


def test_a_prepared_denoiser_keeps_its_scenes(source: ModelSource, uses: Uses) -> None:
    backend = EagerBackend()
    first = backend.prepare(source, LAYOUT, options(uses))
    expected = first.predict(*inputs())
    backend.prepare(source, LAYOUT, options((uses[0], replace(uses[1], scenes=(1,)), uses[2])))
    assert torch.equal(first.predict(*inputs()), expected)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.long) for name in ("onnx", "aot")])
def test_a_graph_holds_its_loras_and_serves_no_others(
    source: ModelSource, uses: Uses, name: str, tmp_path: Path
) -> None:
    backend = get_backend(name)
    assert isinstance(backend, ExportingBackend)
    asked = options(uses, artifacts=tmp_path)
    backend.export(source, LAYOUT, asked, out=tmp_path)
    assert_close(velocity(backend, source, asked), velocity(EagerBackend(), source, options(uses)))
    # A scene outside the layout changes nothing.
    backend.find(source, LAYOUT, options(uses[:2], artifacts=tmp_path))
    for others in (
        (),
        uses[:1],
        (uses[0], replace(uses[1], scenes=(1,))),
        (replace(uses[0], scale=2.0), uses[1]),
    ):
        with pytest.raises(ArtifactMissing):
            backend.find(source, LAYOUT, options(others, artifacts=tmp_path))


@pytest.mark.long
@pytest.mark.parametrize("scope", ["blocks", "whole"])
def test_compiled_code_runs_loras(source: ModelSource, uses: Uses, scope: str) -> None:
    asked = options(uses, extra={"scope": scope})
    assert_close(
        velocity(get_backend("compile"), source, asked), velocity(EagerBackend(), source, options(uses))
    )
