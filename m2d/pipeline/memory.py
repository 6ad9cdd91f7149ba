"""Memory that torch keeps after its tensors are freed."""

from __future__ import annotations

import torch


def free_cached() -> None:
    """Return cached device memory to the system: the next model needs it in one piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
