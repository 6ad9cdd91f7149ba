"""Graphs of the tiny model, exported once for all tests that read them: tracing takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from m2d_backends.baked import BakedTransformer
from m2d_backends.onnx_export import export_graph
from m2d_backends.onnx_graph import GraphFacts, Opset

from m2d.layout import SceneLayout
from tests.m2d.model.tiny_model import LATENT_CHANNELS, tiny_transformer

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(5, 5, 5), latent_frames=(2, 2, 2), tokens_per_frame=4)
UNEQUAL = SceneLayout.build("anchor", text_tokens=(4, 2, 3), latent_frames=(1, 3, 2), tokens_per_frame=4)
SMALL_BYTES = 1000


@dataclass(frozen=True)
class TinyGraph:
    """An exported graph and what it was made from."""

    baked: BakedTransformer
    folder: Path
    facts: GraphFacts


# Kept alive: the folders go when the process ends.
_FOLDERS: list[TemporaryDirectory[str]] = []


def tiny_graph(opset: Opset, *, has_rotary_operator: bool = False) -> TinyGraph:
    """Export once per process. Opset 23: every scene a target; 18: two of unequal scenes, weights beside."""
    # A cache holds a default apart from the same value given by name, and would export twice.
    return _exported(opset, has_rotary_operator)


@cache
def _exported(opset: Opset, has_rotary_operator: bool) -> TinyGraph:
    torch.manual_seed(1)
    layout, targets = (LAYOUT, None) if opset == 23 else (UNEQUAL, (1, 2))
    shape = (sum(layout.latent_frames), LATENT_CHANNELS, 4, 4)
    baked = BakedTransformer(tiny_transformer(), layout, latent_shape=shape, targets=targets).eval()
    _FOLDERS.append(TemporaryDirectory())
    folder = Path(_FOLDERS[-1].name)
    above = SMALL_BYTES if opset == 18 else 1 << 30
    facts = export_graph(
        baked, folder, opset=opset, has_rotary_operator=has_rotary_operator, external_above_bytes=above
    )
    return TinyGraph(baked=baked, folder=folder, facts=facts)
