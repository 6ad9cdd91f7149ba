"""The model card tells what was trained, on what and how well; and nothing of the machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from m2d.training.card import CARD, CURVES, CardFacts, card_text, write_card
from tests.m2d.training.conftest import tiny_recipe

EVENTS: list[dict[str, Any]] = [
    {"event": "train", "step": 2, "loss": 0.5, "loss_full": 0.6, "loss_conditional": 0.4},
    {
        "event": "held-out",
        "step": 2,
        "loss": 0.51,
        "loss_full": 0.61,
        "loss_conditional": None,
        "loss_by_timestep": [0.1, 0.2, None],
    },
    {
        "event": "held-out",
        "step": 4,
        "loss": 0.123456,
        "loss_full": 0.2,
        "loss_conditional": 0.1,
        "loss_by_timestep": [0.1, 0.3, 0.2],
    },
]


def facts(**changes: Any) -> CardFacts:
    recipe = tiny_recipe().model_dump(mode="json") | {"model": "/home/ada/models/cog", **changes}
    return CardFacts(
        facts={
            "recipe": recipe,
            "transformer": recipe["transformer"],
            "stories": "d1" * 32,
            "layout": "a2" * 32,
            "versions": {"torch": "9.9"},
        },
        events=EVENTS,
        step=4,
    )


def test_the_card_tells_data_recipe_and_the_last_held_out_losses() -> None:
    text = card_text(facts(), has_curves=True)
    assert "d1" * 32 in text
    assert "| all | 0.12346 |" in text
    assert "0.51000" not in text
    assert "16 in 4 steps" in text
    assert "torch 9.9" in text
    front = yaml.safe_load(text.split("---")[1])
    assert front["pipeline_tag"] == "text-to-video"
    assert front["tags"] == ["m2d", "multi-scene", "mask2dit"]


def test_the_recipe_on_the_card_is_the_recipe_without_its_folders() -> None:
    text = card_text(facts(), has_curves=False)
    recipe = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert recipe["model"] == "cog"
    assert recipe["optimizer"] == tiny_recipe().model_dump(mode="json")["optimizer"]
    assert "/home" not in text
    assert "curves.png" not in text


def test_a_title_of_several_lines_stays_one_heading() -> None:
    assert "\n# one two\n" in card_text(facts(title="one\ntwo"), has_curves=False)


def test_card_and_curves_are_written_into_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_card(tmp_path, facts()) is None
    assert "![losses over the steps](curves.png)" in (tmp_path / CARD).read_text(encoding="utf-8")
    picture = Image.open(io.BytesIO((tmp_path / CURVES).read_bytes()))
    assert picture.size == (800, 600)


def test_a_run_without_a_log_has_a_card_without_curves(tmp_path: Path) -> None:
    write_card(tmp_path, CardFacts(facts=facts().facts, events=[], step=0))
    assert "None were measured." in (tmp_path / CARD).read_text(encoding="utf-8")
    assert not (tmp_path / CURVES).exists()
