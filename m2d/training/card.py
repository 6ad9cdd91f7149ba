"""The model card: how a model folder was trained, for readers who have the folder without its run.

Owns the card's text and its pictures; the figures come from the run's log and facts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from m2d.files import write_bytes
from m2d.training.curves import draw_curves, why_not_drawn
from m2d.video.privacy import without_folders

CARD, CURVES = "README.md", "curves.png"


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """The contents of a model card.

    Attributes:
        facts: The facts stored in checkpoints: `recipe`, `transformer`, `stories` (the data's digest),
            `layout`, `versions`.
        events: The run's log.
        step: Number of finished steps.
        has_adapters: Whether low-rank adapters were trained, merged and also saved beside the model.
    """

    facts: Mapping[str, Any]
    events: Sequence[dict[str, Any]]
    step: int
    has_adapters: bool = False


def write_card(folder: Path, card: CardFacts) -> str | None:
    """Write the card and its curves into a model folder.

    Returns:
        Why there are no curves; None when there are.

    Raises:
        OutputError: The disk refused.
    """
    missing = why_not_drawn()
    has_curves = missing is None and bool(card.events)
    if has_curves:
        write_bytes(folder / CURVES, draw_curves(card.events, title=str(card.facts["recipe"]["title"])))
    write_bytes(folder / CARD, card_text(card, has_curves=has_curves).encode("utf-8"))
    return missing


def card_text(card: CardFacts, *, has_curves: bool) -> str:
    """Return the card, Markdown with the front matter that model hubs read."""
    recipe = without_folders(card.facts["recipe"])
    held_out = [event for event in card.events if event["event"] == "held-out"]
    template = Environment(
        loader=PackageLoader("m2d.training"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Markdown, not HTML: escaping would change what the recipe says.
        autoescape=False,
    ).get_template("card.md")
    return template.render(
        title=" ".join(str(recipe["title"]).split()),
        recipe=recipe,
        recipe_yaml=yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100).rstrip(),
        transformer=card.facts["transformer"],
        stories=card.facts["stories"],
        layout=card.facts["layout"],
        versions=card.facts["versions"],
        step=card.step,
        num_samples=card.step * int(recipe["batch_size"]),
        held_out=held_out[-1] if held_out else None,
        has_curves=has_curves,
        has_adapters=card.has_adapters,
    )
