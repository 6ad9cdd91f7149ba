"""Graphics cards as data: memory and published peak rates. Imports nothing.

Rates are dense (no sparsity), with float32 accumulation. `source` names the document that a rate should be
checked against; only those of the L40S and the float32 rate of the RTX 4090 have been. No card was measured.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A graphics card.

    Attributes:
        memory_gib: Memory on the card.
        half_tflops: Peak rate of matrix products in bfloat16 (float16 where the card has no bfloat16), in
            10^12 operations per second.
        single_tflops: Peak rate in float32.
        bus_gb_s: Rate of its link to the CPU's memory in one direction, in 10^9 bytes per second.
        source: The document that publishes the rates.
    """

    name: str
    memory_gib: int
    half_tflops: float
    single_tflops: float
    bus_gb_s: float
    source: str


_ADA = "NVIDIA Ada GPU Architecture whitepaper"
_AMPERE = "NVIDIA Ampere GA102 GPU Architecture whitepaper"
_BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture whitepaper"
_PCIE_4, _PCIE_4_X8, _PCIE_5, _PCIE_3 = 25.0, 12.5, 50.0, 12.5

CARDS: tuple[Card, ...] = (
    Card(
        name="RTX 4060", memory_gib=8, half_tflops=30.2, single_tflops=15.1, bus_gb_s=_PCIE_4_X8, source=_ADA
    ),
    Card(
        name="RTX 3060", memory_gib=12, half_tflops=25.5, single_tflops=12.7, bus_gb_s=_PCIE_4, source=_AMPERE
    ),
    Card(name="RTX 4070", memory_gib=12, half_tflops=58.3, single_tflops=29.1, bus_gb_s=_PCIE_4, source=_ADA),
    Card(name="RTX 4080", memory_gib=16, half_tflops=97.5, single_tflops=48.7, bus_gb_s=_PCIE_4, source=_ADA),
    Card(
        name="T4",
        memory_gib=16,
        half_tflops=65.0,
        single_tflops=8.1,
        bus_gb_s=_PCIE_3,
        source="NVIDIA T4 datasheet (float16)",
    ),
    Card(
        name="RTX 3090", memory_gib=24, half_tflops=71.0, single_tflops=35.6, bus_gb_s=_PCIE_4, source=_AMPERE
    ),
    Card(
        name="RTX 4090", memory_gib=24, half_tflops=165.2, single_tflops=82.6, bus_gb_s=_PCIE_4, source=_ADA
    ),
    Card(
        name="L4",
        memory_gib=24,
        half_tflops=121.0,
        single_tflops=30.3,
        bus_gb_s=_PCIE_4,
        source="NVIDIA L4 datasheet",
    ),
    Card(
        name="A10",
        memory_gib=24,
        half_tflops=125.0,
        single_tflops=31.2,
        bus_gb_s=_PCIE_4,
        source="NVIDIA A10 datasheet",
    ),
    Card(
        name="RTX 5090",
        memory_gib=32,
        half_tflops=209.5,
        single_tflops=104.8,
        bus_gb_s=_PCIE_5,
        source=_BLACKWELL,
    ),
    Card(
        name="L40S",
        memory_gib=48,
        half_tflops=362.0,
        single_tflops=91.6,
        bus_gb_s=_PCIE_4,
        source="NVIDIA L40S datasheet",
    ),
    Card(
        name="A100 80GB",
        memory_gib=80,
        half_tflops=312.0,
        single_tflops=19.5,
        bus_gb_s=_PCIE_4,
        source="NVIDIA A100 datasheet",
    ),
    Card(
        name="H100 SXM",
        memory_gib=80,
        half_tflops=989.0,
        single_tflops=67.0,
        bus_gb_s=_PCIE_5,
        source="NVIDIA H100 datasheet",
    ),
    Card(
        name="H200",
        memory_gib=141,
        half_tflops=989.0,
        single_tflops=67.0,
        bus_gb_s=_PCIE_5,
        source="NVIDIA H200 datasheet",
    ),
)


def find_card(name: str) -> Card | None:
    """Return the card that a name means, such as `RTX 4090` or `NVIDIA GeForce RTX 4090`."""
    wanted = _plain(name)
    exact = [card for card in CARDS if _plain(card.name) == wanted]
    # A driver's name is longer than the card's; the longest card in it is meant.
    inside = sorted((card for card in CARDS if _plain(card.name) in wanted), key=lambda card: -len(card.name))
    return next(iter([*exact, *inside]), None)


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character.isalnum())
