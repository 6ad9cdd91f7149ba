"""Graphs that m2d did not write are refused before a runtime sees them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from m2d_backends.onnx_graph import (
    GRAPH_FILE,
    WEIGHTS_FILE,
    check_baked,
    graph_facts,
    planned_calls,
    read_graph,
    structure_digest,
)
from onnx import ModelProto, TensorProto, helper

from m2d.errors import ExportError
from m2d.layout import SceneLayout

CANARY = "/etc/hostname"


def small_model(*, location: str | None = None, length: int = 16, offset: int = 0) -> ModelProto:
    """`velocity = latents + weight`, the weight inside or in another file."""
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [4], [1.0, 2.0, 3.0, 4.0])
    if location is not None:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
            weight.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["latents", "weight"], ["velocity"])],
        "small",
        [helper.make_tensor_value_info("latents", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("velocity", TensorProto.FLOAT, [4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def save(model: ModelProto, folder: Path) -> Path:
    (folder / GRAPH_FILE).write_bytes(model.SerializeToString())
    return folder


def attending(num_inputs: int, calls: int = 1) -> ModelProto:
    model = small_model()
    names = [f"x{index}" for index in range(num_inputs)]
    model.graph.node.extend(helper.make_node("Attention", names, [f"y{call}"]) for call in range(calls))
    return model


def custom_operator(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Run", ["latents"], ["y"], domain="evil.ops"))


def function(model: ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(
        helper.make_function("local", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 23)])
    )


def control_flow(model: ModelProto) -> None:
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(
        helper.make_node("If", ["latents"], ["y"], then_branch=branch, else_branch=branch)
    )


def constant_elsewhere(model: ModelProto) -> None:
    outside = small_model(location=CANARY).graph.initializer[0]
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (custom_operator, "custom operators of domain 'evil.ops'"),
        (function, "functions of its own"),
        (control_flow, "control flow in If"),
        (constant_elsewhere, "constant of Constant '' in another file"),
    ],
)
def test_a_graph_with_foreign_parts_is_refused(tmp_path, spoil: Callable[[ModelProto], None], message):
    model = small_model()
    spoil(model)
    with pytest.raises(ExportError, match=message):
        read_graph(save(model, tmp_path))


@pytest.mark.parametrize(
    "location",
    [
        CANARY,
        "../outside.bin",
        f"./{WEIGHTS_FILE}",
        f"sub/../{WEIGHTS_FILE}",
        "other.bin",
        "",
        "C:\\weights.bin",
    ],
)
def test_weights_anywhere_but_in_the_weights_file_are_refused(tmp_path, location):
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(16))
    with pytest.raises(ExportError, match="weights of 'weight' in "):
        read_graph(save(small_model(location=location), tmp_path))


@pytest.mark.parametrize(("offset", "length"), [(0, 17), (4, 16), (0, 8), (-4, 16), (1 << 40, 16)])
def test_weights_beyond_the_weights_file_are_refused(tmp_path, offset, length):
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(16))
    model = small_model(location=WEIGHTS_FILE, offset=offset, length=length)
    with pytest.raises(ExportError, match="weights of 'weight'"):
        read_graph(save(model, tmp_path))


@pytest.mark.parametrize("link", [os.symlink, os.link])
@pytest.mark.parametrize("name", [GRAPH_FILE, WEIGHTS_FILE])
def test_a_linked_file_is_refused(tmp_path, link, name):
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(16))
    save(small_model(location=WEIGHTS_FILE), tmp_path)
    shutil.move(tmp_path / name, tmp_path / "elsewhere")
    link(tmp_path / "elsewhere", tmp_path / name)
    with pytest.raises(ExportError, match=f"{name}: a link or no plain file"):
        read_graph(tmp_path)


def test_a_missing_or_torn_graph_is_refused(tmp_path):
    with pytest.raises(ExportError, match="No such file"):
        read_graph(tmp_path)
    (tmp_path / GRAPH_FILE).write_bytes(b"\x08\x0bno graph at all")
    with pytest.raises(ExportError, match="not a readable ONNX graph"):
        read_graph(tmp_path)


def test_a_graph_of_ours_is_read_without_its_weights(tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(16))
    model = read_graph(save(small_model(location=WEIGHTS_FILE), tmp_path))
    assert graph_facts(model).largest_bytes == 16
    assert not model.graph.initializer[0].raw_data


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (attending(3, calls=2), "attention calls: got 2, the layout's plan has 1"),
        (attending(4), "attention with a mask or a cache"),
    ],
)
def test_attention_that_is_not_the_plans_is_refused(model, message):
    with pytest.raises(ExportError, match=message):
        check_baked(model, opset=23, num_attention_calls=1, largest_bytes=16)


def test_a_constant_that_the_model_does_not_have_is_refused():
    with pytest.raises(ExportError, match="a constant of 16 bytes; the model's largest has 15"):
        check_baked(attending(3), opset=23, num_attention_calls=1, largest_bytes=15)


def test_scatters_and_another_opset_are_refused_together():
    model = attending(3)
    model.graph.node.append(helper.make_node("ScatterND", ["a", "b", "c"], ["d"]))
    with pytest.raises(ExportError, match=r"ScatterND nodes; opset: got 23, not 18"):
        check_baked(model, opset=18, num_attention_calls=1, largest_bytes=16)


def test_the_last_layer_serves_its_targets_alone():
    layout = SceneLayout.build("mask2dit", text_tokens=(5,) * 3, latent_frames=(2,) * 3, tokens_per_frame=4)
    assert planned_calls(layout, num_layers=8, targets=(0, 1, 2)) == 7 * 6 + 3
    assert planned_calls(layout, num_layers=8, targets=(2,)) == 7 * 6 + 1
    assert planned_calls(layout, num_layers=1, targets=(2,)) == 1


def test_the_structure_of_a_graph_does_not_depend_on_its_weights(tmp_path):
    (tmp_path / WEIGHTS_FILE).write_bytes(bytes(16))
    first, other = small_model(), small_model()
    other.graph.initializer[0].float_data[0] = 5.0
    inside, beside = structure_digest(first), read_graph(save(small_model(location=WEIGHTS_FILE), tmp_path))
    assert inside == structure_digest(other)
    assert structure_digest(onnx.load_from_string(first.SerializeToString())) == inside
    assert structure_digest(beside) == inside
    other.graph.node[0].op_type = "Sub"
    assert structure_digest(other) != inside
