"""Plot the losses of a training over its steps.

Owns the plot; `m2d.training.log` owns the events.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Events = Sequence[dict[str, Any]]

# Key in the log, label, colour.
_LINES = (
    ("loss_full", "every scene denoised", "#4878a8"),
    ("loss_conditional", "clean context", "#c8663c"),
)
_HELD_OUT = ("loss", "held out (averaged weights)", "#222222")


def why_not_drawn() -> str | None:
    """Return why curves cannot be drawn here, or None."""
    if importlib.util.find_spec("matplotlib") is None:
        return "the package matplotlib is not installed; pip install 'm2d[train]'"
    return None


def draw_curves(events: Events, *, title: str) -> bytes:
    """Draw the losses of a log as a PNG.

    Args:
        events: All events of one run, in order.
        title: Title of the plot.
    """
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
