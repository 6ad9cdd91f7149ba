"""oneDNN for the linear layers of graphs that run on a CPU in float32.

Owns which nodes of a traced graph are replaced and by which operator. torch multiplies float32 matrices with
MKL, which uses narrow instructions on other processors than Intel's: on an AMD EPYC with AVX-512 oneDNN is
2.3 times as fast. It computes the same float32 sums in another order, fused with the bias and the GELU.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, fx

logger = logging.getLogger(__name__)

_NAMESPACE = "m2d_backends"


class _Operator(NamedTuple):
    """An operator and the library that defines it; the library must stay referenced."""

    library: Any
    overload: Any


def can_use_onednn(device: str) -> bool:
    """Whether this build of torch has oneDNN for a device."""
    import torch

    return device == "cpu" and bool(torch._C._has_mkldnn)


def compile_with_onednn(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
    """Compile a traced graph with inductor, and its linear layers with oneDNN: a backend for `torch.compile`.

    For inference: the operator has no gradient.
    """
    from torch._inductor.compile_fx import compile_fx

    count = replace_linears(graph, _linear_operator().overload)
    logger.info("compile: %d linear layers by oneDNN", count)
    # The other return types belong to other ways of calling it.
    return cast("Callable[..., Any]", compile_fx(graph, example_inputs))


def bake_onednn(graph: fx.GraphModule) -> int:
    """Replace the linear layers of an exported graph with constant weights; return their number."""
    import torch

    return replace_linears(graph, torch.ops.mkldnn._linear_pointwise.default)


def replace_linears(graph: fx.GraphModule, operator: Any) -> int:
    """Replace float32 linear layers on the CPU, each together with a GELU that alone uses its output.

    Args:
        graph: A graph traced by Dynamo or `torch.export`; changed in place.
        operator: Takes the arguments of `mkldnn::_linear_pointwise`.
    """
    import torch

    linears = (torch.nn.functional.linear, torch.ops.aten.linear.default)
    nodes = [node for node in graph.graph.nodes if node.target in linears and _is_float32_on_cpu(node)]
    for node in nodes:
        _replace(node, operator)
    graph.graph.lint()
    graph.recompile()
    return len(nodes)


def _replace(linear: fx.Node, operator: Any) -> None:
    import torch

    inputs = dict(zip(("input", "weight", "bias"), linear.args, strict=False)) | linear.kwargs
    last, activation, algorithm = linear, "none", ""
    user = next(iter(linear.users)) if len(linear.users) == 1 else None
    gelus = (torch.nn.functional.gelu, torch.ops.aten.gelu.default)
    if user is not None and user.target in gelus:
        last, activation = user, "gelu"
        algorithm = str(user.kwargs.get("approximate", "none"))
    arguments: tuple[Any, ...] = (
        inputs["input"],
        inputs["weight"],
        inputs.get("bias"),
        activation,
        [],
        algorithm,
    )
    with last.graph.inserting_before(last):
        replacement = last.graph.call_function(operator, arguments)
    replacement.meta.update(last.meta)
    last.replace_all_uses_with(replacement)
    for node in dict.fromkeys((last, linear)):
        node.graph.erase_node(node)


def _is_float32_on_cpu(node: fx.Node) -> bool:
    import torch

    # Dynamo and torch.export store a node's example value under different keys.
    value = node.meta.get("example_value", node.meta.get("val"))
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.device.type == "cpu"


@functools.cache
def _linear_operator() -> _Operator:
    """The operator for compiled graphs: inductor lowers oneDNN's own for constant weights only."""
    import torch

    onednn = torch.ops.mkldnn._linear_pointwise.default
    library = torch.library.Library(_NAMESPACE, "DEF")  # type: ignore[no-untyped-call]  # torch
    library.define(  # type: ignore[no-untyped-call]  # torch
        "linear(Tensor x, Tensor weight, Tensor? bias, str activation, Scalar?[] scalars, str? algorithm) "
        "-> Tensor"
    )

    def linear(
        x: Tensor, weight: Tensor, bias: Tensor | None, activation: str, scalars: list[Any], algorithm: str
    ) -> Tensor:
        return onednn(x, weight, bias, activation, scalars, algorithm)  # type: ignore[no-any-return]  # torch.ops

    def shape_of(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
        return x.new_empty((*x.shape[:-1], weight.shape[0]))

    library.impl("linear", linear, "CPU")  # type: ignore[no-untyped-call]  # torch
    torch.library.register_fake(f"{_NAMESPACE}::linear", shape_of, lib=library)
    return _Operator(library, getattr(torch.ops, _NAMESPACE).linear.default)
