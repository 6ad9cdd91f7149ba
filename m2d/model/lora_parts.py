"""The names of the layers that adapters may adapt; apart from `lora`, so that recipes load without torch."""

from __future__ import annotations

from typing import Literal

LoraPart = Literal["attention", "feed_forward", "modulation"]
