"""Counts the bytes, memory and operations of a computation by observing its operations.

Owns the cost of an operation: every operation that is no view reads its tensors and writes its results. On
the meta device a model of any size is counted in seconds, with the same figures every time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# They allocate memory but read and write none.
_FREE = {
    "aten::empty",
    "aten::empty_like",
    "aten::new_empty",
    "aten::empty_strided",
    "aten::_unsafe_view",
}
# They copy an input that is not contiguous, unseen by dispatch modes.
_COPY_FIRST = {"aten::native_layer_norm"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """The costs of a computation.

    Attributes:
        moved_bytes: Bytes read and written by operations that are no views.
        peak_bytes: Peak memory above the memory held before.
        attention_flops: Operations of attention's two products; a multiply-add counts as two.
        matmul_flops: Operations of all other products.
        moved_by: Bytes by operation, most first.
    """

    moved_bytes: int
    peak_bytes: int
    attention_flops: int
    matmul_flops: int
    moved_by: Mapping[str, int]


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Observes every operation; a storage counts as long as a tensor holds it."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.moved: dict[str, int] = {}
        self.attention_flops = self.matmul_flops = self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in held}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read = list(_tensors([args, {k: v for k, v in (kwargs or {}).items() if k != "out"}]))
        written = list(_tensors(out))
        for tensor in written:
            self._hold(tensor)
        name = func._schema.name
        if not func.is_view and name not in _FREE:
            size = sum(map(_size, read)) + sum(map(_size, written)) - self._overwritten(func, args)
            if name in _COPY_FIRST:
                size += sum(2 * _size(tensor) for tensor in read if not tensor.is_contiguous())
            self.moved[name] = self.moved.get(name, 0) + size
            self._count_products(name, read, written)
        return out

    @staticmethod
    def _overwritten(func: Any, args: tuple[Any, ...]) -> int:
        """Return the tensor that `copy_` overwrites without reading it."""
        return _size(args[0]) if func._schema.name in ("aten::copy_", "aten::fill_", "aten::zero_") else 0

    def _count_products(self, name: str, read: Sequence[Tensor], written: Sequence[Tensor]) -> None:
        if "scaled_dot_product" in name:
            query, key, value = read[:3]
            pairs = query.shape[:-1].numel() * key.shape[-2]
            self.attention_flops += 2 * pairs * (query.shape[-1] + value.shape[-1])
        elif name in ("aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"):
            left = read[1] if name in ("aten::addmm", "aten::baddbmm") else read[0]
            self.matmul_flops += 2 * written[0].numel() * left.shape[-1]

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


class _FusedAttention(TorchFunctionMode):
    """Counts attention as one operation, like a fused kernel; the meta device would split it."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | (kwargs or {})
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        return fused(named["query"], named["key"], named["value"], attn_mask=named.get("attn_mask"))[0]


def count(run: Callable[[], object], *, held: Sequence[Tensor] = ()) -> Counts:
    """Count one call.

    Args:
        run: The computation, on the meta device or another; its result is dropped.
        held: Weights and inputs, which exist before the call and are not part of the peak.
    """
    counter = _Counter(held)
    with torch.no_grad(), counter, _FusedAttention():
        run()
    moved = dict(sorted(counter.moved.items(), key=lambda item: -item[1]))
    return Counts(
        moved_bytes=sum(moved.values()),
        peak_bytes=counter.peak,
        attention_flops=counter.attention_flops,
        matmul_flops=counter.matmul_flops,
        moved_by=moved,
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
