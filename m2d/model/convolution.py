"""Runs 3-D convolutions on a CPU with oneDNN, also those for which torch would use its own kernel.

The results are the same float32 sums in another order. torch uses oneDNN for a single clip only where batch,
channels, frames and height multiply to more than 20,480, a rule for images that ignores the width. Below it,
torch's own kernel takes up to twenty times as long (torch 2.13, two cores, 8 channels and 6 frames of 144x96:
22 ms instead of 1.1 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# As `nn.Conv3d` passes them: input, weight, bias, stride, padding, dilation, groups.
_NUM_ARGUMENTS = 7


class OneDnnConvolutions(TorchFunctionMode):
    """Context in which oneDNN runs float32 convolutions on a CPU; without oneDNN it changes nothing."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch; `conv3d` with oneDNN."""
        if function is torch.conv3d and len(args) == _NUM_ARGUMENTS and _can_onednn(*args[:5]):
            video_BCPHW, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(video_BCPHW, weight, bias, padding, stride, dilation, groups)
        return function(*args, **(kwargs or {}))


def _can_onednn(video_BCPHW: Tensor, weight: Tensor, _bias: Tensor, _stride: Any, padding: Any) -> bool:
    return (
        video_BCPHW.device.type == "cpu"
        and video_BCPHW.ndim == weight.ndim
        and video_BCPHW.dtype == weight.dtype == torch.float32
        # oneDNN takes no padding by name.
        and not isinstance(padding, str)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch declares no types
    )
