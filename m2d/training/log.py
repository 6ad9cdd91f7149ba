"""What a training tells about itself: one JSON line per event in `log.jsonl`.

Owns the averaging between log lines and the file; does not decide when to log.
"""

# B batch, N scenes

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2d.files import write_bytes
from m2d.training.objective import TrainingBatch

FILE = "log.jsonl"
NUM_BUCKETS = 5


class TrainingLog:
    """Appends events; a resumed run first drops the lines of steps that it will do again."""

    def __init__(self, run: Path, *, resumed_at: int) -> None:
        """Open the log of a run folder that goes on after step `resumed_at` (0: from the start)."""
        self._path = run / FILE
        kept = [event for event in read_log(run) if event["step"] <= resumed_at] if resumed_at else []
        write_bytes(self._path, "".join(_line(event) for event in kept).encode("ascii"))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Append one event; `values` are JSON."""
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(_line({"event": kind, "step": step, **values}))


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the whole events of a run's log; a last line cut short by a crash is left out."""
    path = run / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=True) + "\n"


@dataclass(slots=True)
class LossMeter:
    """Means over the steps since the last reading.

    Attributes:
        num_timesteps: Timesteps of the noise schedule, which the buckets divide evenly.
    """

    num_timesteps: int
    _errors: list[Tensor] = field(default_factory=list)
    _timesteps: list[Tensor] = field(default_factory=list)
    _is_target: list[Tensor] = field(default_factory=list)
    _grad_norms: list[float] = field(default_factory=list)
    _data_s: float = 0.0
    _step_s: float = 0.0

    def add(self, errors_BN: Tensor, batch: TrainingBatch, *, grad_norm: float) -> None:
        """Take in one step's errors."""
        self._errors.append(errors_BN.detach())
        self._timesteps.append(batch.timesteps_BN)
        self._is_target.append(batch.is_target_BN)
        self._grad_norms.append(grad_norm)

    def add_time(self, *, data_s: float, step_s: float) -> None:
        """Take in one step's durations: collecting the batch, and all of the step."""
        self._data_s += data_s
        self._step_s += step_s

    def read(self) -> dict[str, Any]:
        """Return the means and start over.

        `loss` is over all target scenes, `loss_conditional` over those of samples with clean context and
        `loss_full` over the others; `loss_by_timestep` is over equal ranges of timesteps, low noise first.
        """
        errors_BN = torch.cat(self._errors).cpu()
        is_target_BN = torch.cat(self._is_target).cpu()
        buckets_BN = torch.cat(self._timesteps).cpu() * NUM_BUCKETS // self.num_timesteps
        is_conditional_BN = is_target_BN & ~is_target_BN.all(dim=1, keepdim=True)
        values = {
            "loss": _mean(errors_BN, is_target_BN),
            "loss_full": _mean(errors_BN, is_target_BN & ~is_conditional_BN),
            "loss_conditional": _mean(errors_BN, is_conditional_BN),
            "loss_by_timestep": [
                _mean(errors_BN, is_target_BN & (buckets_BN == bucket)) for bucket in range(NUM_BUCKETS)
            ],
            "grad_norm": sum(self._grad_norms) / len(self._grad_norms),
            "samples_per_s": round(len(errors_BN) / max(self._step_s, 1e-9), 3),
            "data_share": round(self._data_s / max(self._step_s, 1e-9), 4),
        }
        self._errors, self._timesteps, self._is_target, self._grad_norms = [], [], [], []
        self._data_s = self._step_s = 0.0
        return values


def _mean(errors_BN: Tensor, counts_BN: Tensor) -> float | None:
    return float(errors_BN[counts_BN].mean()) if bool(counts_BN.any()) else None
