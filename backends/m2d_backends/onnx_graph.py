"""Reads an exported graph and checks its structure before a runtime loads it.

Owns the names of files and tensors and the checks. Needs only onnx: `m2d_backends.onnx_export` makes graphs,
other modules run them.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m2d.errors import ExportError
from m2d.layout import SceneLayout
from m2d.reading import read_bytes

if TYPE_CHECKING:
    import onnx

Opset = Literal[18, 23]

GRAPH_FILE = "graph.onnx"
WEIGHTS_FILE = "weights.bin"
INPUT_NAMES = ("latents", "prompt_embeds", "timesteps")
OUTPUT_NAME = "velocity"
BATCH = "batch"
OPSETS: Mapping[str, Opset] = {"18": 18, "23": 23}
MAX_BATCH = 2
"""Guidance runs a prompt and its negative as one batch of two."""
# Opset 23 has an attention operator; in earlier ones each attention call has exactly one softmax.
ATTENTION_OPERATOR: Mapping[int, str] = {18: "Softmax", 23: "Attention"}
ROTARY_OPSET: Opset = 23
"""The first that has an operator for rotary embeddings."""
# Slice assignments become these nodes, each one more pass over a tensor; a plan needs none.
_SCATTERS = frozenset({"ScatterND", "ScatterElements", "Scatter"})
_QUERY_KEY_VALUE = 3
# No protobuf message is larger; weights are in a file of their own.
_LARGEST_GRAPH_BYTES = (1 << 31) - 1
_MOST_DIGITS = 18


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphFacts:
    """Counts and sizes of a graph: the nodes of each operator, and its constants, weights among them."""

    opset: int
    operators: Mapping[str, int]
    num_initializers: int
    largest_bytes: int
    total_bytes: int

    @property
    def num_attention_calls(self) -> int:
        """Number of nodes that compute attention."""
        return self.operators.get(ATTENTION_OPERATOR[self.opset], 0)


def planned_calls(layout: SceneLayout, *, num_layers: int, targets: tuple[int, ...]) -> int:
    """Count a model's attention calls: the plan's in every layer, in the last one only the targets'."""
    return (num_layers - 1) * len(layout.plan()) + len(layout.plan_for(targets))


def read_graph(folder: Path) -> onnx.ModelProto:
    """Read an exported graph without its weights, and check that m2d can have written it.

    Raises:
        ExportError: A file is missing, a link or unreadable, or the graph has parts that m2d never writes:
            custom operators, weights in other files than its own, control flow, an attention mask.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # publishes no types

    path = folder / GRAPH_FILE
    _refuse_odd_file(path)
    try:
        model = onnx.load_model_from_string(read_bytes(path, limit_bytes=_LARGEST_GRAPH_BYTES))
    except (DecodeError, OSError) as error:
        raise ExportError(f"{path}: not a readable ONNX graph ({error}); export it again") from error
    problems = [*_unexpected_parts(model), *_misplaced_weights(model, folder)]
    if problems:
        raise ExportError(f"{path}: refused, m2d writes no such graph: {'; '.join(problems)}")
    return model


def check_baked(
    model: onnx.ModelProto, *, opset: Opset, num_attention_calls: int, largest_bytes: int
) -> GraphFacts:
    """Check that the layout was baked in: attention without masks, and as many calls as the plan has.

    Args:
        model: The graph, with or without its weights.
        opset: The requested version.
        num_attention_calls: The number from `planned_calls`.
        largest_bytes: Size of the largest constant that the model itself has.

    Raises:
        ExportError: Something differs; the message names all of it.
    """
    facts = graph_facts(model)
    problems = [f"it has {op} nodes" for op in sorted(_SCATTERS & facts.operators.keys())]
    if facts.opset != opset:
        problems.append(f"opset: got {facts.opset}, not {opset}")
    elif facts.num_attention_calls != num_attention_calls:
        problems.append(
            f"attention calls: got {facts.num_attention_calls}, the layout's plan has {num_attention_calls}"
        )
    masked = [
        node.name
        for node in model.graph.node
        if node.op_type == "Attention" and sum(map(bool, node.input)) != _QUERY_KEY_VALUE
    ]
    if masked:
        problems.append(f"attention with a mask or a cache: {', '.join(masked[:3])}")
    if facts.largest_bytes > largest_bytes:
        problems.append(f"a constant of {facts.largest_bytes} bytes; the model's largest has {largest_bytes}")
    if problems:
        raise ExportError(f"the exported graph is not the layout's: {'; '.join(problems)}")
    return facts


def graph_facts(model: onnx.ModelProto) -> GraphFacts:
    """Count the parts of a graph."""
    sizes = [size_bytes(tensor) for tensor in model.graph.initializer]
    return GraphFacts(
        opset=next((entry.version for entry in model.opset_import if not entry.domain), 0),
        operators=dict(Counter(node.op_type for node in model.graph.node)),
        num_initializers=len(sizes),
        largest_bytes=max(sizes, default=0),
        total_bytes=sum(sizes),
    )


def structure_digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 (hex) of a graph without its weights: equal for all fine-tunings of one model."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for tensor in bare.graph.initializer:
        # Shapes, axes and scalars belong to the computation; float arrays are weights.
        if tensor.dims and onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).kind not in "iub":
            for field in ("raw_data", "float_data", "external_data", "data_location"):
                tensor.ClearField(field)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def size_bytes(tensor: onnx.TensorProto) -> int:
    """Return the size of a constant's values."""
    import onnx

    item_bytes: int = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    num_items: int = prod(tensor.dims)
    return num_items * item_bytes


def _unexpected_parts(model: onnx.ModelProto) -> Iterator[str]:
    if len(model.functions):
        yield "it brings functions of its own"
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in model.graph.node}
    for domain in sorted(domains - {"", "ai.onnx"}):
        yield f"custom operators of domain {domain!r}"
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") or len(attribute.graphs):
                yield f"control flow in {node.op_type} {node.name!r}"
            if attribute.HasField("t") and attribute.t.data_location != 0:
                yield f"a constant of {node.op_type} {node.name!r} in another file"
    if len(model.graph.sparse_initializer):
        yield "sparse weights"


def _misplaced_weights(model: onnx.ModelProto, folder: Path) -> Iterator[str]:
    """Find external data outside `WEIGHTS_FILE`: its path could name any file on this machine."""
    import onnx

    external = [
        tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    if not external:
        return
    _refuse_odd_file(folder / WEIGHTS_FILE)
    available = (folder / WEIGHTS_FILE).stat().st_size
    for tensor in external:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if location != WEIGHTS_FILE:
            yield f"weights of {tensor.name!r} in {location!r}, not in {WEIGHTS_FILE}"
            continue
        offset, length = (entries.get(key, "0") for key in ("offset", "length"))
        if not all(text.isdecimal() and len(text) <= _MOST_DIGITS for text in (offset, length)):
            yield f"weights of {tensor.name!r} at offset {offset[:40]!r}, length {length[:40]!r}"
        elif int(length) != size_bytes(tensor) or int(offset) + int(length) > available:
            yield f"weights of {tensor.name!r} reach beyond {WEIGHTS_FILE}, or are not its shape's size"


def _refuse_odd_file(path: Path) -> None:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; export it again") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise ExportError(f"{path}: a link or no plain file; m2d reads only graphs that it wrote itself")
