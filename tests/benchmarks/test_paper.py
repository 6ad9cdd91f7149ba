from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import FAILS, HOLDS, PAGE, RESULT, UNDECIDED, claims, page_with, summary, tables

METHODS = ("mask2dit", "cogvideox", "prompt-relay", "plain", "talc", "storydiffusion", "videostudio")


def scored(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 1, "high": value + 1, "count": 2}


def comparison(**visual: float) -> dict[str, Any]:
    """A comparison of two stories whose scores are all 50, but the given Visual Consistencies."""
    methods = {}
    for name in METHODS:
        own = visual.get(name.replace("-", "_"), 50.0)
        scenes = [
            {"story": story, "visual": own, "semantic": 50.0, "cross_talk": 50.0}
            for story in ("puppet-story-01", "puppet-story-02")
        ]
        figures = {"visual": scored(own), "semantic": scored(50), "sequence": scored((own + 50) / 2)}
        methods[name] = {
            "title": name,
            "settings": {"model": "builtin:puppet", "num_inference_steps": 12, "guidance_scale": 2.0},
            "evaluation": {
                "num_stories": 2,
                "embedder": "puppet",
                "networks": {},
                "m2d": "0",
                "figures": figures | {"cross_talk": scored(50), "unprompted_difference": scored(0.1)},
                "scenes": scenes,
                "set_distance": {"frechet": 100.0 - own, "frechet_of_halves": {"value": 5.0}},
            },
        }
    return {"methods": methods}


@pytest.mark.parametrize(("ours", "verdict"), [(61.0, HOLDS), (59.0, FAILS)])
def test_a_claim_holds_by_its_limit(ours: float, verdict: str) -> None:
    found = {text: of for text, _, of in claims(summary(comparison(mask2dit=ours)))}
    assert found["Visual Consistency at least 10 points over CogVideoX (paper: +15.94)"] == verdict
    assert found["Mask2DiT has the lowest Frechet distance"] == HOLDS
    assert found["The same is clearly lower without a mask"] == FAILS


def test_a_difference_whose_interval_holds_the_limit_decides_nothing() -> None:
    report = summary(comparison(mask2dit=61.0))
    report["differences"]["sequence"]["prompt-relay"] = scored(0.5)
    found = {text: of for text, _, of in claims(report)}
    assert found["Mask2DiT is ahead of Prompt Relay in Sequence Consistency"] == UNDECIDED


def test_a_claim_that_fails_is_shown_as_it_is() -> None:
    text = tables(summary(comparison(mask2dit=40.0, talc=60.0)))
    claim = "Mask2DiT is first of the paper's five methods in Sequence Consistency"
    assert f"| {claim} | next: talc, -10.00 (-10.00 to -10.00) | **does not hold** |" in text


def test_the_page_has_the_tables_of_the_results() -> None:
    text = PAGE.read_text("utf-8")
    report = json.loads(RESULT.read_text())
    assert page_with(report, text) == text
    other = deepcopy(report)
    other["num_stories"] += 1
    assert page_with(other, text) != text


def test_every_recipe_that_the_page_names_is_there() -> None:
    folder = Path(__file__).parents[2] / "recipes" / "paper"
    text = PAGE.read_text("utf-8")
    assert all(f"(../recipes/paper/{path.name})" in text for path in folder.glob("*.yaml"))
