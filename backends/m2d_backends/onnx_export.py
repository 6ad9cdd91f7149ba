"""Writes a transformer with its layout baked in as an ONNX graph.

Owns tracing, constant folding and the files; what the graph may contain is `m2d_backends.onnx_graph`'s, what
runs it `m2d_backends.onnx_runtime`'s and `m2d_backends.tensorrt_engine`'s.
"""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens, V video tokens, D width,
# N scenes or heads, K head dim, R = K/2 rotated pairs.

from __future__ import annotations

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2d.errors import ExportError
from m2d_backends.baked import BakedTransformer
from m2d_backends.onnx_graph import (
    BATCH,
    GRAPH_FILE,
    INPUT_NAMES,
    MAX_BATCH,
    OUTPUT_NAME,
    ROTARY_OPSET,
    WEIGHTS_FILE,
    GraphFacts,
    Opset,
    check_baked,
    planned_calls,
    read_graph,
)

if TYPE_CHECKING:
    import onnx_ir as ir

logger = logging.getLogger(__name__)

# A protobuf message ends at 2 GiB; weights beside the graph also load without being copied through it.
EXTERNAL_ABOVE_BYTES = 1 << 30
_SEED = 20


def export_graph(
    baked: BakedTransformer,
    folder: Path,
    *,
    opset: Opset = 23,
    has_rotary_operator: bool = False,
    external_above_bytes: int = EXTERNAL_ABOVE_BYTES,
) -> GraphFacts:
    """Write `GRAPH_FILE`, and `WEIGHTS_FILE` for a large model, into a folder.

    The graph takes batches of 1 or 2 in the dtype that the transformer has now; every other size is fixed.

    Args:
        opset: 23 has one `Attention` node per call of the layout's plan; 18 spells each out as
            MatMul-Softmax-MatMul, for TensorRT before 10.14 and wherever no fused kernel exists.
        has_rotary_operator: Write `RotaryEmbedding` nodes, which opset 23 has, in place of a dozen each. ONNX
            Runtime runs them faster; TensorRT knows them from 10.15.1 on.
        external_above_bytes: Weights beyond this size go to a file of their own.

    Raises:
        ExportError: The model cannot be traced, or the graph is not what the layout's plan says.
        ValueError: An operator that the opset does not have.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    if has_rotary_operator and opset < ROTARY_OPSET:
        raise ValueError(f"opset {opset} has no operator for rotary embeddings; {ROTARY_OPSET} is the first")
    with _rotary_operator(baked) if has_rotary_operator else contextlib.nullcontext():
        model = trace(baked, opset)
    _fold_transposes(model)
    # The names of source files and lines would reveal paths of this machine.
    ClearMetadataAndDocStringPass()(model)
    _name_batch(model)
    _save(model, folder, external_above_bytes)
    facts = check_baked(
        read_graph(folder),
        opset=opset,
        num_attention_calls=planned_calls(
            baked.layout, num_layers=len(baked.transformer.transformer_blocks), targets=baked.targets
        ),
        largest_bytes=_largest_constant_bytes(baked),
    )
    logger.info("onnx: %d nodes, %d bytes of constants", sum(facts.operators.values()), facts.total_bytes)
    return facts


@contextlib.contextmanager
def _rotary_operator(baked: BakedTransformer) -> Iterator[None]:
    """Trace the rotary embedding as the ONNX operator within the block."""
    baked.transformer.rotate_by(_rotate)
    try:
        yield
    finally:
        baked.transformer.rotate_by(None)


def _rotate(x_BVNK: Tensor, rotary_VR2: Tensor) -> Tensor:
    """Compute `m2d.model.rotary.apply_rotary` in one node."""
    batch, num_tokens, num_heads, head_dim = x_BVNK.shape
    cos_VR, sin_VR = rotary_VR2.unbind(-1)
    positions_BV = torch.arange(num_tokens, device=x_BVNK.device).expand(batch, num_tokens)
    rotated_BVD: Tensor = torch.onnx.ops.rotary_embedding(
        x_BVNK.float().flatten(2), cos_VR, sin_VR, positions_BV, interleaved=True, num_heads=num_heads
    )
    return torch.unflatten(rotated_BVD, -1, (num_heads, head_dim)).to(x_BVNK.dtype)


def trace(baked: BakedTransformer, opset: Opset) -> ir.Model:
    """Return the graph as torch traces it; writes no file. Raises as `export_graph`."""
    # Traced with a batch of two: torch would treat a batch of one as a constant.
    inputs = baked.example_inputs(MAX_BATCH, baked.transformer.dtype, baked.transformer.device, _SEED)
    sizes = ({0: torch.export.Dim(BATCH, min=1, max=MAX_BATCH)},) * len(INPUT_NAMES)
    try:
        with torch.no_grad(), _without_noise():
            program = torch.export.export(baked, tuple(inputs), dynamic_shapes=sizes, strict=False)
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=INPUT_NAMES,
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.UserError) as error:
        raise ExportError(f"torch cannot write this model as ONNX opset {opset}: {error}") from error
    if exported is None:
        raise ExportError(f"torch wrote no ONNX graph for opset {opset}")
    return exported.model


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Silence torch's warnings about its own deprecated calls and about missing torchvision."""
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        registry.setLevel(level)


def _fold_transposes(model: ir.Model) -> None:
    """Turn `x @ transpose(weight)` into `x @ weight`.

    torch folds small matrices only. A runtime would transpose the others at every start, and an engine's
    refit does not find a weight that must be transposed first.
    """
    import onnx_ir as ir

    for node in list(model.graph):
        if node.op_type != "Transpose":
            continue
        (weight,), (result,) = node.inputs, node.outputs
        if weight is None or weight.const_value is None or not weight.is_initializer():
            continue
        order = node.attributes["perm"].as_ints()
        tensor = ir.Tensor(weight.const_value.numpy().transpose(order), name=result.name)
        folded = ir.Value(name=result.name, shape=tensor.shape, type=result.type, const_value=tensor)
        result.name = None
        ir.convenience.replace_all_uses_with(result, folded, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        model.graph.register_initializer(folded)
        if not weight.uses():
            del model.graph.initializers[str(weight.name)]


def _name_batch(model: ir.Model) -> None:
    """Name the only dynamic dimension alike everywhere; torch invents a name for each input."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is None:
            raise ExportError(f"the exported graph does not know the shape of {value.name!r}")
        value.shape = ir.Shape([BATCH, *list(value.shape)[1:]])


def _save(model: ir.Model, folder: Path, external_above_bytes: int) -> None:
    import onnx_ir as ir

    sizes = [
        value.const_value.nbytes
        for value in model.graph.initializers.values()
        if value.const_value is not None
    ]
    is_large = sum(sizes) > external_above_bytes
    ir.save(model, folder / GRAPH_FILE, external_data=WEIGHTS_FILE if is_large else None)


def _largest_constant_bytes(baked: BakedTransformer) -> int:
    tensors = (*baked.parameters(), *baked.buffers())
    return max(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors)
