"""Names of the memory modes and of the ways to quantize. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MemoryMode = Literal["full", "model-offload", "group-offload", "sequential"]
MemoryName = Literal["auto", "full", "model-offload", "group-offload", "sequential"]
DecodeName = Literal["auto", "plain", "sliced", "tiled"]
QuantizeKind = Literal["fp8", "int8", "gguf"]

MEMORY_MODES: tuple[MemoryMode, ...] = ("full", "model-offload", "group-offload", "sequential")
"""Fastest first. None of them changes a result."""

MODE_MEANS = {
    "full": "the part in use is on the device",
    "model-offload": "one part at a time is on the device; the transformer waits while the VAE works",
    "group-offload": "blocks wait in the CPU's memory, two at a time are on the device",
    "sequential": "every layer waits in the CPU's memory until it is used",
}
SLOW_MODES = ("group-offload", "sequential")


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantized:
    """How the weights of a transformer's linear layers are stored; it computes in the run's data type.

    Attributes:
        file: The GGUF file that holds the weights; None for the other kinds.
        sha256: Digest of the file.
        size_bytes: Size of the file.
    """

    kind: QuantizeKind
    file: Path | None = None
    sha256: str = ""
    size_bytes: int = 0

    @property
    def identity(self) -> str:
        """What distinguishes the weights from those of the model folder: `int8`, or the file's digest."""
        return f"gguf {self.sha256}" if self.kind == "gguf" else self.kind
