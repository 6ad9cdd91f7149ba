"""Counts the bytes, memory and operations of a computation by observing its operations.

Owns the cost of an operation: every operation that is no view reads its tensors and writes its results. On
the meta device a model of any size is counted in seconds, with the same figures every time. There, what a
computation moves to the CPU counts as outside the device's memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

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
        matmul_flops: Operations of all other matrix products.
        convolution_flops: Operations of convolutions.
        moved_by: Bytes by operation, most first.
    """

    moved_bytes: int
    peak_bytes: int
    attention_flops: int
    matmul_flops: int
    moved_by: Mapping[str, int]
    convolution_flops: int = 0

    @property
    def flops(self) -> int:
        """All operations."""
        return self.attention_flops + self.matmul_flops + self.convolution_flops


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Observes every operation; a storage counts as long as a tensor holds it."""

    def __init__(self, held: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.moved: dict[str, int] = {}
        self.attention_flops = self.matmul_flops = self.convolution_flops = self.live = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in held}
        self._on_host: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        read = list(_tensors([args, {k: v for k, v in (kwargs or {}).items() if k != "out"}]))
        written = list(_tensors(out))
        is_on_host = bool(read) and all(_address(tensor) in self._on_host for tensor in read)
        for tensor in written:
            self._hold(tensor, is_on_host=is_on_host)
        name = func._schema.name
        if not func.is_view and name not in _FREE:
            size = sum(map(_size, read)) + sum(map(_size, written)) - self._overwritten(func, args)
            if name in _COPY_FIRST:
                size += sum(2 * _size(tensor) for tensor in read if not tensor.is_contiguous())
            self.moved[name] = self.moved.get(name, 0) + size
            self._count_products(name, read, written)
            if name == "aten::convolution":
                self.convolution_flops += flop_registry[func._overloadpacket](*args, out_val=out)
        return out

    def move(self, tensor: Tensor, *, to_host: bool) -> Tensor:
        """Return the copy of a tensor on the other side of the bus."""
        if to_host == (_address(tensor) in self._on_host):
            return tensor
        if not to_host:
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        # Outside this mode, which would count it as on the device.
        with _disable_current_modes():
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        self._hold(copy, is_on_host=True)
        return copy

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

    def _hold(self, tensor: Tensor, *, is_on_host: bool) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known:
            return
        key, size = storage._cdata, 0 if is_on_host else storage.nbytes()
        self._known.add(key)
        if is_on_host:
            self._on_host.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._on_host.discard(key)
        self.live -= size


class _HostMoves(TorchFunctionMode):
    """Lets meta tensors move to the CPU and back, which torch refuses because they hold no values."""

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to and len(args) == 2 and not kwargs and args[0].is_meta:
            device = args[1]
            if isinstance(device, str | torch.device):
                return self._counter.move(args[0], to_host=torch.device(device).type == "cpu")
        return func(*args, **(kwargs or {}))


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
    with torch.no_grad(), counter, _FusedAttention(), _HostMoves(counter):
        run()
    moved = dict(sorted(counter.moved.items(), key=lambda item: -item[1]))
    return Counts(
        moved_bytes=sum(moved.values()),
        peak_bytes=counter.peak,
        attention_flops=counter.attention_flops,
        matmul_flops=counter.matmul_flops,
        moved_by=moved,
        convolution_flops=counter.convolution_flops,
    )


def _tensors(values: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _address(tensor: Tensor) -> int:
    address: int = tensor.untyped_storage()._cdata
    return address


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
