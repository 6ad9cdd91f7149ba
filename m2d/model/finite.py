"""Check what a part of a model returns: NaN and infinity must not reach a film or a training."""

from __future__ import annotations

import torch
from torch import Tensor

from m2d.errors import M2DError


class NotFiniteError(M2DError):
    """A part of a model returned NaN or infinity."""


def check_finite(values: Tensor, *, what: str) -> Tensor:
    """Return `values`.

    Args:
        what: What they are, for the message: `the VAE's output`.

    Raises:
        NotFiniteError: Some are NaN or infinite.
    """
    is_finite = torch.isfinite(values)
    if bool(is_finite.all()):
        return values
    num_bad = values.numel() - int(is_finite.sum())
    advice = "compute this part in float32, or get the model again"
    if values.dtype in (torch.float32, torch.float64):
        advice = "its weights or its config are corrupt; get the model again"
    raise NotFiniteError(
        f"{what} is NaN or infinite in {num_bad:,} of {values.numel():,} values, computed in "
        f"{str(values.dtype).removeprefix('torch.')}; {advice}"
    )
