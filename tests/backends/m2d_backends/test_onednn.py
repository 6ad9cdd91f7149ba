"""Linear layers by oneDNN compute what torch's do; only those that should are replaced."""

# B batch, D width

from __future__ import annotations

import pytest
import torch
from m2d_backends.onednn import bake_onednn, can_use_onednn, compile_with_onednn, replace_linears
from torch import Tensor, fx, nn

pytestmark = pytest.mark.skipif(not can_use_onednn("cpu"), reason="this torch was built without oneDNN")
ONEDNN = torch.ops.mkldnn._linear_pointwise.default


class _Layers(nn.Module):
    """A linear with a GELU, one whose GELU is not all that reads it, and one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 16)
        self.third = nn.Linear(16, 4, bias=False)

    def forward(self, x_BD: Tensor) -> Tensor:
        hidden = nn.functional.gelu(self.first(x_BD), approximate="tanh")
        both = self.second(hidden)
        return self.third(both + nn.functional.gelu(both))  # type: ignore[no-any-return]  # nn.Module.__call__


def _exported(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, fx.GraphModule, Tensor]:
    torch.manual_seed(0)
    layers = _Layers().to(dtype).eval().requires_grad_(False)
    x_BD = torch.randn(3, 5, 8, dtype=dtype)
    return layers, torch.export.export(layers, (x_BD,), strict=False).graph_module, x_BD


def _operators(graph: fx.GraphModule) -> list[object]:
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_linears_of_an_exported_graph_take_their_bias_and_gelu_with_them() -> None:
    _, graph, _ = _exported()
    assert bake_onednn(graph) == 3
    found = [node for node in graph.graph.nodes if node.target is ONEDNN]
    # A GELU that is not the only reader of a linear stays.
    assert [node.args[3:] for node in found] == [("gelu", [], "tanh"), ("none", [], ""), ("none", [], "")]
    assert _operators(graph).count(torch.ops.aten.gelu.default) == 1
    assert torch.ops.aten.linear.default not in _operators(graph)


def test_an_exported_graph_computes_the_same_with_onednn() -> None:
    layers, _, x_BD = _exported()
    program = torch.export.export(layers, (x_BD,), strict=False)
    expected = program.module()(x_BD)
    bake_onednn(program.graph_module)
    torch.testing.assert_close(program.module()(x_BD), expected, rtol=1e-5, atol=1e-6)


def test_other_precisions_are_left_to_torch() -> None:
    _, graph, _ = _exported(torch.float64)
    before = _operators(graph)
    assert replace_linears(graph, ONEDNN) == 0
    assert _operators(graph) == before


@pytest.mark.parametrize("device", ["cuda", "meta"])
def test_other_devices_are_left_to_torch(device: str) -> None:
    assert not can_use_onednn(device)


@pytest.mark.long
def test_a_compiled_graph_computes_the_same_with_onednn(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    layers, _, x_BD = _exported()
    compiled = torch.compile(layers, fullgraph=True, dynamic=False, backend=compile_with_onednn)
    with torch.inference_mode():
        compiled(x_BD)
        with torch.profiler.profile() as profile:
            actual = compiled(x_BD)
    ran = {event.name for event in profile.events()}
    assert "m2d_backends::linear" in ran
    assert "aten::addmm" not in ran
    torch.testing.assert_close(actual, layers(x_BD), rtol=1e-5, atol=1e-6)
