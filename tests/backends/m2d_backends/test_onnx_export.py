"""The graph that is written: the layout's attention calls and nothing that a mask would leave behind."""

import onnx
import onnxruntime
import pytest
import torch
from m2d_backends.onnx_export import export_graph
from m2d_backends.onnx_graph import BATCH, GRAPH_FILE, INPUT_NAMES, MAX_BATCH, OUTPUT_NAME, WEIGHTS_FILE

from tests.backends.m2d_backends.tiny_graphs import LAYOUT, SMALL_BYTES, UNEQUAL, TinyGraph, tiny_graph

# The requirement on every backend's parity: float32, maximum absolute error.
MAX_ABSOLUTE_ERROR = 1e-5


@pytest.fixture(
    params=[(23, False), (23, True), pytest.param((18, False), marks=pytest.mark.long)],
    scope="module",
    ids=str,
)
def graph(request: pytest.FixtureRequest) -> TinyGraph:
    # The spelled-out one with its weights beside it, as for a model beyond a protobuf message's 2 GiB.
    opset, has_rotary_operator = request.param
    return tiny_graph(opset, has_rotary_operator=has_rotary_operator)


def run(graph: TinyGraph, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = graph.baked.example_inputs(batch, torch.float32, "cpu", seed=7)
    session = onnxruntime.InferenceSession(graph.folder / GRAPH_FILE, providers=["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in zip(INPUT_NAMES, inputs, strict=True)}
    (actual,) = session.run([OUTPUT_NAME], feed)
    with torch.no_grad():
        return torch.from_numpy(actual), graph.baked(*inputs)


@pytest.mark.parametrize("batch", range(1, MAX_BATCH + 1))
def test_the_graph_computes_what_the_model_computes(graph, batch):
    actual, expected = run(graph, batch)
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= MAX_ABSOLUTE_ERROR


def test_each_layer_has_one_attention_node_per_call_of_the_plan():
    graph = tiny_graph(23)
    assert len(LAYOUT.plan()) == 2 * LAYOUT.num_scenes
    # Two layers; of the last, text rows reach no output.
    assert graph.facts.operators["Attention"] == 2 * 3 + 3
    assert "Softmax" not in graph.facts.operators


@pytest.mark.long
def test_before_the_operator_existed_each_call_is_spelled_out():
    graph = tiny_graph(18)
    assert graph.facts.operators["Softmax"] == len(UNEQUAL.plan()) + len(UNEQUAL.plan_for((1, 2)))
    assert "Attention" not in graph.facts.operators


def test_queries_and_keys_are_rotated_by_one_node_each_where_it_is_asked_for():
    graph = tiny_graph(23, has_rotary_operator=True)
    assert graph.facts.operators["RotaryEmbedding"] == 2 * len(graph.baked.transformer.transformer_blocks)
    assert "RotaryEmbedding" not in tiny_graph(23).facts.operators
    # The model itself rotates as before.
    with torch.no_grad():
        inputs = graph.baked.example_inputs(1, torch.float32, "cpu", seed=3)
        assert torch.equal(graph.baked(*inputs), tiny_graph(23).baked(*inputs))


@pytest.mark.long
def test_an_operator_that_the_opset_does_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="opset 18"):
        export_graph(tiny_graph(18).baked, tmp_path, opset=18, has_rotary_operator=True)


def test_there_is_no_mask_no_scatter_and_no_constant_larger_than_the_weights(graph):
    model = onnx.load(graph.folder / GRAPH_FILE)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"ScatterND", "ScatterElements", "Where", "Trilu", "IsNaN"}
    # Masks would be expanded; the batch's token positions may be.
    expanded = {node.output[0] for node in model.graph.node if node.op_type == "Expand"}
    users = {node.op_type for node in model.graph.node if expanded & set(node.input)}
    assert users <= {"RotaryEmbedding"}
    assert all(sum(map(bool, node.input)) == 3 for node in model.graph.node if node.op_type == "Attention")
    weights = sum(p.numel() * p.element_size() for p in graph.baked.parameters())
    tables = sum(table.numel() * table.element_size() for table in graph.baked.buffers())
    assert graph.facts.total_bytes <= weights + tables + 100 * graph.facts.num_initializers
    assert graph.facts.largest_bytes == max(p.numel() * p.element_size() for p in graph.baked.parameters())


def test_no_weight_is_transposed_when_the_graph_runs(graph):
    model = onnx.load(graph.folder / GRAPH_FILE)
    weights = {tensor.name for tensor in model.graph.initializer}
    assert not [n for n in model.graph.node if n.op_type == "Transpose" and n.input[0] in weights]


def test_only_the_batch_is_free(graph):
    model = onnx.load(graph.folder / GRAPH_FILE)
    values = [*model.graph.input, *model.graph.output]
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    layout = graph.baked.layout
    assert shapes == {
        "latents": [BATCH, *graph.baked.latent_shape],
        "prompt_embeds": [BATCH, layout.num_text_tokens, 16],
        "timesteps": [BATCH, layout.num_scenes],
        "velocity": [BATCH, sum(layout.latent_frames[s] for s in graph.baked.targets), 4, 4, 4],
    }


@pytest.mark.long
def test_weights_of_a_large_model_lie_beside_its_graph():
    inside, beside = tiny_graph(23), tiny_graph(18)
    assert {path.name for path in inside.folder.iterdir()} == {GRAPH_FILE}
    assert {path.name for path in beside.folder.iterdir()} == {GRAPH_FILE, WEIGHTS_FILE}
    assert (beside.folder / WEIGHTS_FILE).stat().st_size > SMALL_BYTES


def test_the_graph_says_nothing_of_where_it_was_made(graph):
    content = (graph.folder / GRAPH_FILE).read_bytes()
    assert b".py" not in content
    assert b"/site-packages/" not in content
    onnx.checker.check_model(graph.folder / GRAPH_FILE, full_check=True)
