"""Building, refitting and running engines, against a stand-in as strict as the published bindings."""

import re
from pathlib import Path

import onnx
import pytest
import torch
from m2d_backends.onnx_graph import GRAPH_FILE, INPUT_NAMES
from m2d_backends.tensorrt_backend import TensorRTBackend, library_problem
from m2d_backends.tensorrt_engine import BuiltEngine, Engine, build_engine, refit_engine, serialize_refitted
from m2d_backends.tensorrt_plan import (
    TensorFacts,
    TensorRTOptions,
    expected_tensors,
    profiles,
    version_of,
)

from m2d.backend import BackendOptions, ExportingBackend, TrainableBackend
from m2d.errors import BackendError, BackendUnavailable, ExportError
from m2d.families.source import resolve_model
from tests.backends.m2d_backends.fake_tensorrt import fake_tensorrt
from tests.backends.m2d_backends.tiny_graphs import LAYOUT, tiny_graph
from tests.m2d.model.tiny_model import build_tiny_model


def tensors() -> tuple[TensorFacts, ...]:
    return expected_tensors([(6, 4, 4, 4), (15, 16), (3,)], (6, 4, 4, 4), "float32")


def build(trt, graph: Path | None = None, cache: bytes = b"", **options) -> BuiltEngine:
    return build_engine(
        trt,
        graph or tiny_graph(23).folder / GRAPH_FILE,
        profiles=profiles(tensors()),
        options=TensorRTOptions(**options),
        version=version_of(trt.__version__),
        timing_cache=cache,
    )


def run(engine: Engine, batch: int) -> torch.Tensor:
    inputs = tiny_graph(23).baked.example_inputs(batch, torch.float32, "cpu", seed=3)
    velocity = torch.empty(batch, 6, 4, 4, 4)
    engine.enqueue(dict(zip(INPUT_NAMES, inputs, strict=True)), {"velocity": velocity}, stream=77)
    return velocity


def eager(batch: int) -> torch.Tensor:
    baked = tiny_graph(23).baked
    with torch.no_grad():
        velocity: torch.Tensor = baked(*baked.example_inputs(batch, torch.float32, "cpu", seed=3))
    return velocity


@pytest.mark.parametrize("version", ["10.16.1.11", "11.4.0.106"])
@pytest.mark.parametrize("batch", [1, 2])
def test_an_engine_is_built_loaded_bound_and_run(version, batch):
    trt = fake_tensorrt(version)
    engine = Engine(trt, build(trt).plan, tensors())
    engine.start(is_streaming=False)
    # The stand-in computes through ONNX Runtime: the graph's own tolerance.
    torch.testing.assert_close(run(engine, batch), eager(batch), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("version", "flags"), [("10.16.1.11", 2), ("11.4.0.106", 0)])
def test_the_network_is_strongly_typed_in_every_version(version, flags):
    trt = fake_tensorrt(version)
    build(trt, optimization_level=4, weight_streaming=True)
    ((network, config),) = trt.builds
    assert network.flags == flags
    assert {flag.name for flag in config.flags} == {"WEIGHT_STREAMING"}
    assert config.builder_optimization_level == 4


def test_timings_of_this_device_are_used_again_and_those_of_another_are_not():
    trt = fake_tensorrt()
    first = build(trt)
    assert build(trt, cache=first.timing_cache).timing_cache == b"timed.timed."
    assert build(trt, cache=b"foreign").timing_cache == b"timed."


def test_weights_are_streamed_within_the_devices_own_budget():
    trt = fake_tensorrt()
    engine = Engine(trt, build(trt, weight_streaming=True).plan, tensors())
    engine.start(is_streaming=True)
    assert engine.native.weight_streaming_budget_v2 == 1000


def test_a_refitted_engine_computes_with_the_other_weights(tmp_path):
    trt = fake_tensorrt()
    model = onnx.load(tiny_graph(23).folder / GRAPH_FILE)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("proj_out.bias"):
            shifted = onnx.numpy_helper.to_array(tensor) + 1
            tensor.CopyFrom(onnx.numpy_helper.from_array(shifted, tensor.name))
    onnx.save(model, tmp_path / GRAPH_FILE)
    engine = Engine(trt, build(trt, refit="weights").plan, tensors())
    refit_engine(trt, engine.native, tmp_path / GRAPH_FILE)
    again = Engine(trt, serialize_refitted(trt, engine.native), tensors())
    again.start(is_streaming=False)
    torch.testing.assert_close(run(again, 1), eager(1) + 1, rtol=0, atol=1e-5)


def test_an_engine_that_cannot_be_refitted_says_so():
    trt = fake_tensorrt()
    engine = Engine(trt, build(trt).plan, tensors())
    with pytest.raises(ExportError, match=f"{GRAPH_FILE} does not fit the engine"):
        refit_engine(trt, engine.native, tiny_graph(23).folder / GRAPH_FILE)


def test_what_the_parser_says_is_passed_on(tmp_path):
    (tmp_path / GRAPH_FILE).write_bytes(b"\x08\x0bno graph")
    with pytest.raises(ExportError, match=re.escape(f"cannot read {GRAPH_FILE}: Attention node_1: ")):
        build(fake_tensorrt(), tmp_path / GRAPH_FILE)


def test_a_plan_of_another_version_is_an_error_with_its_reason():
    with pytest.raises(BackendError, match="cannot load the engine: not a plan of this version"):
        Engine(fake_tensorrt(), b"not json", tensors())


def test_an_engine_of_another_layout_is_refused_before_it_runs():
    trt = fake_tensorrt()
    other = (tensors()[0]._replace(shape=(-1, 8, 4, 4, 4)), *tensors()[1:])
    with pytest.raises(BackendError, match="the engine is not the layout's"):
        Engine(trt, build(trt).plan, other)


def test_a_batch_outside_the_profile_is_refused():
    trt = fake_tensorrt()
    engine = Engine(trt, build(trt).plan, tensors())
    engine.start(is_streaming=False)
    with pytest.raises(BackendError, match="TensorRT rejects the shape of latents"):
        run(engine, 3)


def test_the_stand_in_knows_nothing_that_the_bindings_do_not_have():
    trt = fake_tensorrt("11.4.0.106")
    config = trt.Builder(trt.ILogger()).create_builder_config()
    with pytest.raises(AttributeError, match="BF16"):
        _ = trt.BuilderFlag.BF16
    with pytest.raises(AttributeError, match="max_workspace_size"):
        config.max_workspace_size = 1
    with pytest.raises(TypeError, match="unexpected keyword"):
        trt.Builder(trt.ILogger()).create_network(explicit_batch=True)


def test_without_the_library_the_backend_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
    source = resolve_model(str(build_tiny_model(tmp_path / "model")))
    backend = TensorRTBackend()
    with pytest.raises(BackendUnavailable, match="CUDA devices only, not on 'cpu'"):
        backend.prepare(source, LAYOUT, BackendOptions(latent_size=(4, 4)))
    reason = library_problem()
    assert reason is not None
    assert "tensorrt" in reason
    with pytest.raises(BackendUnavailable, match="tensorrt"):
        backend.export(source, LAYOUT, BackendOptions(device="cuda", latent_size=(4, 4)))


def test_engines_are_exported_and_never_trained_through():
    assert isinstance(TensorRTBackend(), ExportingBackend)
    assert not isinstance(TensorRTBackend(), TrainableBackend)
    assert "no engine has been built or run on hardware yet" in TensorRTBackend.not_yet_run
