"""A window that an earlier run finished is one of the plan, whatever the digest of its file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from m2d.errors import UnusableState
from m2d.pipeline.observer import FinishedWindow
from m2d.pipeline.window import check_finished

SHAPE = (2, 4, 3, 5)
SCENE = SimpleNamespace(geometry=SimpleNamespace(num_latent_frames=2, latent_height=3, latent_width=5))
# What the check reads of a plan of three scenes whose window makes the last two.
PLAN: Any = SimpleNamespace(
    scenes=(SCENE,) * 3, source=SimpleNamespace(geometry=SimpleNamespace(latent_channels=4))
)
PART: Any = SimpleNamespace(window=SimpleNamespace(targets=(1, 2)))


def test_a_window_of_the_plan_is_returned() -> None:
    window = FinishedWindow(index=0, latents_FCHW={1: torch.zeros(SHAPE), 2: torch.ones(SHAPE)})
    assert check_finished(window, PLAN, PART) is window


@pytest.mark.parametrize(
    ("latents", "complaint"),
    [
        ({1: torch.zeros(SHAPE)}, "window 1 holds other scenes than it makes"),
        ({0: torch.zeros(SHAPE), 1: torch.zeros(SHAPE)}, "window 1 holds other scenes than it makes"),
        ({1: torch.zeros(SHAPE), -(10**20): torch.zeros(SHAPE)}, "window 1 holds other scenes"),
        ({1: torch.zeros(SHAPE), 2: torch.zeros(2, 4, 5, 3)}, r"scene 3: is float32 of shape \(2, 4, 5, 3\)"),
        ({1: torch.zeros(SHAPE), 2: torch.zeros(SHAPE).double()}, "scene 3: is float64 of shape"),
        (
            {1: torch.full(SHAPE, torch.nan), 2: torch.zeros(SHAPE)},
            "scene 2: is NaN or infinite in 120 of 120",
        ),
    ],
)
def test_scenes_and_latents_of_another_plan_are_refused(latents: dict[int, Tensor], complaint: str) -> None:
    with pytest.raises(UnusableState, match=complaint):
        check_finished(FinishedWindow(index=0, latents_FCHW=latents), PLAN, PART)
