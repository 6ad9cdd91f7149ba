"""How written frames are enlarged: the filters, by the names that recipes and records have for them."""

from __future__ import annotations

from typing import Literal, NamedTuple

UpscaleFilter = Literal["lanczos", "nearest"]
"""`lanczos` is smooth; `nearest` repeats pixels. Films without a recorded filter were made with `nearest`."""
LARGEST_UPSCALE = 64


class Enlarging(NamedTuple):
    """How frames are enlarged: by which factor, 1 for not at all, and with which filter."""

    factor: int
    filter: UpscaleFilter = "nearest"
