"""TensorFlow's `SAME` padding, which I3D and EfficientNet-Lite were trained with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional


def same_padded(values: Tensor, *, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad with zeros so that an output has ceil(size / stride) places; the odd place is at the end.

    Args:
        values: Any number of axes, then one per entry of `kernel`.
    """
    pads: list[int] = []
    sizes = values.shape[-len(kernel) :]
    for size, own_kernel, own_stride in zip(sizes, kernel, stride, strict=True):
        total = max((-(-size // own_stride) - 1) * own_stride + own_kernel - size, 0)
        # torch lists the last axis first.
        pads[:0] = (total // 2, total - total // 2)
    return functional.pad(values, pads) if any(pads) else values
