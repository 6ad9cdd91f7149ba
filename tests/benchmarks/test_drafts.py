"""A draft predicts its film when places, cast and colours agree; other properties are only reported."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.drafts import REQUIRED, agreements, share
from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.labels import PROMPTED_CLASSES


def reading(numbers: tuple[float, float, float, float] = (0.5, 0.5, 0.5, 0.5), **classes: int) -> Reading:
    """One scene with both actors on stage; tree, sun and horizon are shares of their ranges."""
    columns = {name: torch.tensor([1]) for name in PROMPTED_CLASSES}
    columns |= {name.replace("_", ".", 1): torch.tensor([value]) for name, value in classes.items()}
    return Reading(classes=columns, numbers=torch.tensor([numbers]))


@pytest.mark.parametrize(
    ("draft", "wrong"),
    [
        (reading(), set()),
        # The ranges are 0.84, 0.76 and 0.16 of the picture, and 5 % of the picture are allowed.
        (reading((0.555, 0.56, 0.8, 0.0)), set()),
        (reading((0.57, 0.5, 0.5, 0.5)), {"tree_x"}),
        (reading((0.5, 0.43, 0.5, 0.5)), {"sun_x"}),
        (reading((0.5, 0.5, 0.15, 0.5)), {"horizon_y"}),
        (reading(actor2_on_stage=0), {"cast"}),
        (reading(actor1_colour=3), {"colour"}),
        (reading(actor1_hat=2, actor2_action=2), {"hat", "action"}),
    ],
)
def test_every_difference_counts_for_its_own_property(draft: Reading, wrong: set[str]) -> None:
    found = agreements(draft, reading())
    assert {name for name, flags_B in found.items() if not flags_B.all()} == wrong
    assert set(REQUIRED) <= found.keys()


def test_the_looks_of_an_actor_who_is_not_in_the_film_do_not_count() -> None:
    found = agreements(reading(actor2_on_stage=0, actor2_colour=4), reading(actor2_on_stage=0))
    assert all(flags_B.all() for flags_B in found.values())


def test_a_share_has_an_interval_over_stories_as_json() -> None:
    found = share(torch.tensor([[True, False], [True, True]]))
    assert (found["value"], found["count"]) == (0.75, 4)
    assert found["low"] <= 0.75 <= found["high"]
    json.dumps(found, allow_nan=False)
