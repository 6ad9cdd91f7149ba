"""The ONNX backend exports, verifies and runs graphs, and never runs something else in their place."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from m2d_backends import onnx_session
from m2d_backends.onnx_runtime import OnnxBackend, compare
from m2d_backends.onnx_session import (
    check_provider,
    distributions_problem,
    installed_distributions,
    provider_problem,
    settings_from,
)

from m2d.backend import BackendOptions
from m2d.errors import (
    ArtifactMissing,
    ArtifactRefused,
    BackendError,
    BackendUnavailable,
    ExportError,
    InputError,
    LayoutMismatch,
)
from m2d.families.source import ModelSource, resolve_model
from tests.backends.m2d_backends.tiny_graphs import LAYOUT, UNEQUAL, tiny_graph
from tests.m2d.model.tiny_model import TEXT_WIDTH, build_tiny_model

SIZE = (4, 4)


def test_the_runtime_keeps_nothing_in_the_home_folder_and_is_imported_in_one_place(tmp_path: Path) -> None:
    words = [sys.executable, "-c", "from m2d_backends.onnx_session import load_runtime; load_runtime()"]
    paths = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(words, env={**os.environ, **paths}, check=True)
    assert list(tmp_path.iterdir()) == []
    sources = Path(onnx_session.__file__).parent.rglob("*.py")
    places = [path.name for path in sources if re.search(r"^\s*import onnxruntime", path.read_text(), re.M)]
    assert places == ["onnx_session.py"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("model"))))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of all tests: its key signs what they export."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def exported(source: ModelSource, cache_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph of one scene's velocity."""
    folder = tmp_path_factory.mktemp("artifacts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2D_CACHE", str(cache_folder))
        OnnxBackend().export(source, LAYOUT, options(folder), out=folder)
    return folder


@pytest.fixture(autouse=True)
def cache(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2D_CACHE", str(cache_folder))


def options(folder: Path, **changes: object) -> BackendOptions:
    given = {"targets": (1,), "latent_size": SIZE, "artifacts": folder, **changes}
    return BackendOptions(**given)  # type: ignore[arg-type]


def inputs(batch: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    stream = torch.Generator().manual_seed(batch)
    return (
        torch.randn(batch, 6, 4, 4, 4, generator=stream),
        torch.randn(batch, 15, TEXT_WIDTH, generator=stream),
        torch.tensor([[0, 999, 0]]).expand(batch, -1),
    )


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_one_graph_serves_every_batch(source, exported, batch, batch_size):
    from m2d_backends.eager import EagerBackend

    asked = options(exported, batch_size=batch_size)
    actual = OnnxBackend().prepare(source, LAYOUT, asked).predict(*inputs(batch))
    expected = EagerBackend().prepare(source, LAYOUT, asked).predict(*inputs(batch))
    # The requirement on every backend: float32, relative to the largest output.
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_the_same_call_twice_gives_the_same_bits_and_leaves_its_inputs_alone(source, exported):
    backend = OnnxBackend()
    given = inputs(2)
    copies = [tensor.clone() for tensor in given]
    first = backend.prepare(source, LAYOUT, options(exported))
    before = first.predict(*given)
    backend.prepare(source, LAYOUT, options(exported, extra={"threads": "1"})).predict(*inputs(1))
    assert torch.equal(first.predict(*given), before), "an earlier denoiser goes on as it did"
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given, copies, strict=True))


def test_a_graph_is_found_and_listed_with_its_error(source, exported):
    backend = OnnxBackend()
    (stored,) = backend.stored(exported)
    assert stored.folder == backend.find(source, LAYOUT, options(exported))
    assert 0 < stored.relative_error <= 1e-5
    assert stored.manifest.versions["opset"] == "23"


def test_without_a_graph_there_is_nothing_to_run(source, tmp_path):
    with pytest.raises(ArtifactMissing, match="no graph is exported for this"):
        OnnxBackend().prepare(source, LAYOUT, options(tmp_path))


def test_a_graph_for_other_targets_is_another_graph(source, exported):
    with pytest.raises(ArtifactMissing, match="no graph is exported"):
        OnnxBackend().prepare(source, LAYOUT, options(exported, targets=(2,)))


def test_a_named_graph_of_another_layout_is_refused_with_both_keys(source, exported):
    (folder,) = exported.iterdir()
    with pytest.raises(ArtifactRefused, match=r"is key [0-9a-f]{12}, wanted is [0-9a-f]{12}; layout_digest"):
        OnnxBackend().prepare(source, UNEQUAL, options(folder))


def test_a_changed_byte_is_noticed_before_the_runtime_sees_it(source, exported, tmp_path):
    (folder,) = exported.iterdir()
    copy = Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2))
    copy.chmod(0o700)
    graph = copy / "graph.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(ArtifactRefused, match=r"graph\.onnx: is not what was published"):
        OnnxBackend().prepare(source, LAYOUT, options(copy))


def test_released_denoisers_refuse_and_shapes_of_another_layout_are_refused(source, exported):
    backend = OnnxBackend()
    denoiser = backend.prepare(source, LAYOUT, options(exported))
    latents, embeds, timesteps = inputs()
    with pytest.raises(LayoutMismatch, match="text tokens: got 14, the layout has 15"):
        denoiser.predict(latents, embeds[:, 1:], timesteps)
    backend.release()
    with pytest.raises(BackendError, match="released"):
        denoiser.predict(*inputs())


def test_a_graph_with_other_weights_is_not_published():
    graph = tiny_graph(23)
    with torch.no_grad():
        graph.baked.transformer.proj_out.bias += 1e-3
    try:
        with pytest.raises(
            ExportError,
            match=r"backend 'onnx': the graph differs from the eager model by \d\.\de-0[34] of its largest",
        ):
            compare(graph.baked, graph.folder)
    finally:
        with torch.no_grad():
            graph.baked.transformer.proj_out.bias -= 1e-3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dtype": "bfloat16"}, BackendUnavailable, "no bfloat16 kernels for the CPU"),
        (
            {"extra": {"provider": "coreml"}},
            InputError,
            "option provider='coreml': Input should be 'cpu', 'cuda' or 'tensorrt'",
        ),
        ({"extra": {"provider": "cuda"}}, InputError, "cuda does not run on device 'cpu'"),
        ({"extra": {"provider": "cpu"}, "device": "cuda"}, InputError, "cpu does not run on device 'cuda'"),
        (
            {"extra": {"threads": "0"}},
            InputError,
            "option threads='0': Input should be greater than or equal to 1",
        ),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        settings_from(options(tmp_path, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extra": {"provder": "cpu"}},
            r"option provder='cpu': Extra inputs are not permitted; its options: provider, threads, opset",
        ),
        ({"extra": {"opset": "17"}}, "option opset='17': Input should be '18' or '23'"),
        ({"batch_size": 3}, "batch_size: got 3, a graph takes 2 at most"),
        ({"latent_size": None}, "give latent_size"),
    ],
)
def test_options_that_no_graph_has_are_refused(source, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        OnnxBackend().find(source, LAYOUT, options(tmp_path, **changes))


def test_a_missing_graph_that_could_not_run_here_is_not_asked_for(source, tmp_path):
    with pytest.raises(BackendUnavailable, match="no bfloat16 kernels for the CPU; use float32"):
        OnnxBackend().find(source, LAYOUT, options(tmp_path, dtype="bfloat16"))


def test_another_provider_than_the_one_asked_for_is_an_error():
    check_provider("CUDAExecutionProvider", ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(BackendUnavailable, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPU"):
        check_provider("CUDAExecutionProvider", ["CPUExecutionProvider"])


def test_a_provider_that_the_runtime_was_built_without_is_named():
    assert provider_problem("cpu", ["CPUExecutionProvider"]) is None
    reason = provider_problem("tensorrt", ["CPUExecutionProvider"])
    assert reason is not None
    assert "built without TensorrtExecutionProvider (it has CPUExecutionProvider)" in reason


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"onnxruntime": "1.31.1"}, None),
        ({"onnxruntime-gpu": "1.23.0"}, None),
        ({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "both installed"),
        ({"onnxruntime": "1.22.1"}, "1.22.1 is too old; install 1.23"),
    ],
)
def test_two_runtimes_in_one_folder_or_an_old_one_are_noticed(found, reason):
    problem = distributions_problem(found)
    assert (problem is None) if reason is None else (problem is not None and reason in problem)


def test_this_installation_has_one_runtime():
    assert len(installed_distributions()) == 1
    assert OnnxBackend().unavailable_reason("cpu") is None
