"""Targets for one CogVideoX-5B block on a GPU, and whether they are met.

Owns the targets, and how each figure follows from several rows of `benchmarks.speed`; times nothing. A figure
without its rows has no value: it was not run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Rows = Mapping[str, Mapping[str, Any]]

# Both compute one whole block, with all rows, and are compared with the official scheme.
BLOCKS = ("block-eager", "block-compiled")
# Models of one block with embedding and output layers, used if no block was run alone.
MODELS = ("model-eager", "model-compiled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """A figure and its limit.

    Attributes:
        name: Name of the figure in the results.
        what: The figure in words.
        bound: The required side of the target.
        target: The limit, as a ratio.
    """

    name: str
    what: str
    bound: Literal["at most", "at least"]
    target: float

    def holds(self, value: float) -> bool:
        """Return whether a value meets the target."""
        return value <= self.target if self.bound == "at most" else value >= self.target


GOALS = (
    Goal(
        name="block_time",
        what="Time of a CogVideoX-5B block, official scheme = 100 %",
        bound="at most",
        target=0.85,
    ),
    Goal(
        name="block_peak",
        what="Peak memory of the block above its weights, official scheme = 100 %",
        bound="at most",
        target=0.60,
    ),
    Goal(
        name="dense_time",
        what="Time of its attention, one call with a dense mask = 100 %",
        bound="at most",
        target=0.60,
    ),
    Goal(
        name="text_cost",
        what="Attention time added by the texts, attention among videos alone = 100 %",
        bound="at most",
        target=0.03,
    ),
    Goal(
        name="matmul_share",
        what="Operations per second, product of two 8192 x 8192 matrices = 100 %",
        bound="at least",
        target=0.55,
    ),
)


def checked(
    rows: Sequence[Mapping[str, Any]], *, flops: int, matmul_flop_per_s: float
) -> list[dict[str, Any]]:
    """Return every goal with its value and whether it is met; both None if it was not run.

    Args:
        rows: Rows of all trials, as `benchmarks.speed` writes them; failed trials are ignored.
        flops: Operations of one block.
        matmul_flop_per_s: Rate of a large product on the GPU in the same run.
    """
    measured = {row["key"]: row for row in rows if row["error"] is None}
    best = fastest_block(measured)
    values: dict[str, Callable[[], float]] = {
        "block_time": lambda: measured[best or ""]["ratios"]["median"],
        "block_peak": lambda: _peak_ratio(measured[best or ""]),
        "dense_time": lambda: measured["attention-dense"]["ratios"]["median"],
        "text_cost": lambda: measured["attention-text"]["ratios"]["median"] - 1,
        "matmul_share": lambda: flops / min(block_seconds(measured)) / matmul_flop_per_s,
    }
    checks = []
    for goal in GOALS:
        try:
            value = values[goal.name]()
        except KeyError:
            value = None
        checks.append(
            {
                "name": goal.name,
                "value": value,
                "bound": goal.bound,
                "target": goal.target,
                "holds": None if value is None else goal.holds(value),
                "of": best if value is not None and goal.name.startswith("block") else None,
            }
        )
    return checks


def fastest_block(measured: Rows) -> str | None:
    """Return our fastest block by its ratio to the official scheme, among those with equal results."""
    equal = [key for key, row in measured.items() if row["is_equal"]]
    ours = [key for key in BLOCKS if key in equal] or [key for key in MODELS if key in equal]
    return min(ours, key=lambda key: measured[key]["ratios"]["median"], default=None)


def block_seconds(measured: Rows) -> list[float]:
    """Return the times of our blocks whose results equal those of the official scheme.

    Raises:
        KeyError: No such block was run.
    """
    seconds = [measured[key]["seconds"][0] for key in BLOCKS if key in measured and measured[key]["is_equal"]]
    if not seconds:
        raise KeyError("seconds")
    return seconds


def _peak_ratio(row: Mapping[str, Any]) -> float:
    if row["peak_bytes"] is None:
        raise KeyError("peak_bytes")
    return float(row["peak_bytes"]["ours"] / row["peak_bytes"]["baseline"])
