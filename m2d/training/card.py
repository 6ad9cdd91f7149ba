"""The model card: how a model folder was trained, for readers who have the folder without its run.

Owns the card's text and the plot of the losses; the figures come from the run's log and facts.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from m2d.files import write_bytes
from m2d.video.privacy import without_folders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Events = Sequence[dict[str, Any]]

CARD, CURVES = "README.md", "curves.png"
# Key in the log, label, colour.
_LINES = (
    ("loss_full", "every scene denoised", "#4878a8"),
    ("loss_conditional", "clean context", "#c8663c"),
)
_HELD_OUT = ("loss", "held out (averaged weights)", "#222222")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardFacts:
    """The contents of a model card.

    Attributes:
        facts: The facts stored in checkpoints: `recipe`, `transformer`, `stories` (the data's digest),
            `layout`, `versions`.
        events: The run's log, in order.
        has_adapters: Whether low-rank adapters were trained, merged and also saved beside the model.
    """

    facts: Mapping[str, Any]
    events: Events
    step: int
    has_adapters: bool = False


def write_card(folder: Path, card: CardFacts) -> str | None:
    """Write the card and its curves into a model folder; return why there are no curves, or None.

    Raises:
        OutputError: The disk refused.
    """
    can_draw = importlib.util.find_spec("matplotlib") is not None
    has_curves = can_draw and bool(card.events)
    if has_curves:
        write_bytes(folder / CURVES, draw_curves(card.events, title=str(card.facts["recipe"]["title"])))
    write_bytes(folder / CARD, card_text(card, has_curves=has_curves).encode("utf-8"))
    return None if can_draw else "the package matplotlib is not installed; pip install 'm2d[train]'"


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


def draw_curves(events: Events, *, title: str) -> bytes:
    """Draw the losses of a run's log as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    over_steps, over_noise = figure.subplots(2, 1, height_ratios=(2, 1))
    figure.suptitle(title)
    _draw_over_steps(over_steps, events)
    _draw_over_noise(over_noise, events)
    buffer = io.BytesIO()
    # Without the software's name, the same log gives the same file with every matplotlib version.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def _draw_over_steps(axes: Axes, events: Events) -> None:
    for key, label, colour in _LINES:
        steps, losses = _series(events, "train", key)
        if steps:
            axes.plot(steps, losses, color=colour, linewidth=0.8, label=label)
    key, label, colour = _HELD_OUT
    steps, losses = _series(events, "held-out", key)
    axes.plot(steps, losses, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)
    axes.set(xlabel="step", ylabel="velocity loss", yscale="log")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend()


def _draw_over_noise(axes: Axes, events: Events) -> None:
    """Draw the first and last held-out loss per range of timesteps: the noise levels that improved."""
    measured = [event for event in events if event["event"] == "held-out"]
    for event, colour in zip(measured[:1] + measured[-1:], ("#b0b0b0", "#222222"), strict=False):
        losses = event["loss_by_timestep"]
        places = [(index + 0.5) / len(losses) for index in range(len(losses))]
        axes.plot(places, losses, marker="o", color=colour, label=f"step {event['step']}")
    axes.set(xlabel="noise: share of the schedule's timesteps", ylabel="held-out loss", xlim=(0, 1))
    axes.grid(visible=True, alpha=0.25)
    if measured:
        axes.legend()


def _series(events: Events, kind: str, key: str) -> tuple[list[int], list[float]]:
    found = [(e["step"], e[key]) for e in events if e["event"] == kind and e.get(key) is not None]
    return [step for step, _ in found], [loss for _, loss in found]
