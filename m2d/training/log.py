"""The log of a training: one JSON line per event in `log.jsonl`.

Owns the file and the averaging between log lines; `trainer` decides when to log.
"""

# B batch, N scenes

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2d.errors import CheckpointError
from m2d.files import write_bytes
from m2d.reading import memory_limit_bytes, read_bytes
from m2d.training.objective import TrainingBatch
from m2d.training.processes import ALONE, Processes

FILE = "log.jsonl"
NUM_BUCKETS = 5


class TrainingLog:
    """Appends events; a resumed run first drops the lines of the steps that it repeats."""

    def __init__(self, run: Path, *, resumed_at: int) -> None:
        """Open the log of a run that resumes after step `resumed_at` (0: from the start)."""
        self._path = run / FILE
        kept = [event for event in read_log(run) if event["step"] <= resumed_at] if resumed_at else []
        write_bytes(self._path, "".join(_line(event) for event in kept).encode("ascii"))

    def write(self, kind: str, *, step: int, **values: Any) -> None:
        """Append one event; `values` are JSON."""
        with self._path.open("a", encoding="ascii") as stream:
            stream.write(_line({"event": kind, "step": step, **values}))


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the complete events of a run's log; a last line cut short by a crash is ignored.

    Raises:
        CheckpointError: A line is not an event.
    """
    path = run / FILE
    if not path.exists():
        return []
    text = read_bytes(path, limit_bytes=memory_limit_bytes()).decode("ascii", errors="replace")
    lines = text.splitlines(keepends=True)
    return [_event(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.endswith("\n")]


def _event(line: str, place: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{place}: not JSON; remove the line") from error
    if not isinstance(event, dict) or not isinstance(event.get("step"), int):
        raise CheckpointError(f"{place}: not an event with a step; remove the line")
    return event


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=True) + "\n"


@dataclass(kw_only=True, slots=True)
class LossMeter:
    """Means over the steps since the last reading; buckets divide the noise schedule's timesteps evenly."""

    num_timesteps: int
    processes: Processes = ALONE
    _errors: list[Tensor] = field(default_factory=list)
    _timesteps: list[Tensor] = field(default_factory=list)
    _is_target: list[Tensor] = field(default_factory=list)

    def add(self, errors_BN: Tensor, batch: TrainingBatch) -> None:
        """Add the errors of some samples."""
        self._errors.append(errors_BN.detach())
        self._timesteps.append(batch.timesteps_BN)
        self._is_target.append(batch.is_target_BN)

    def read(self) -> dict[str, Any]:
        """Return the means and start over; all processes call this together.

        `loss` is over all target scenes, `loss_conditional` over those of samples with clean context and
        `loss_full` over the others; `loss_by_timestep` is over equal ranges of timesteps, low noise first,
        `loss_by_scene` over the positions in the story. A mean over nothing is None.
        """
        errors_BN = torch.cat(self._errors).cpu().double()
        is_target_BN = torch.cat(self._is_target).cpu()
        buckets_BN = torch.cat(self._timesteps).cpu() * NUM_BUCKETS // self.num_timesteps
        is_conditional_BN = is_target_BN & ~is_target_BN.all(dim=1, keepdim=True)
        places_N = torch.arange(errors_BN.shape[1])
        groups = [is_target_BN, is_target_BN & ~is_conditional_BN, is_conditional_BN]
        groups += [is_target_BN & (buckets_BN == bucket) for bucket in range(NUM_BUCKETS)]
        groups += [is_target_BN & (places_N == place) for place in range(len(places_N))]
        sums = torch.stack([torch.stack(((errors_BN * each).sum(), each.sum())) for each in groups])
        means = [total / count if count else None for total, count in self.processes.sum(sums).tolist()]
        self._errors, self._timesteps, self._is_target = [], [], []
        return {
            "loss": means[0],
            "loss_full": means[1],
            "loss_conditional": means[2],
            "loss_by_timestep": means[3 : 3 + NUM_BUCKETS],
            "loss_by_scene": means[3 + NUM_BUCKETS :],
        }


@dataclass(kw_only=True, slots=True)
class SpeedMeter:
    """Speed of the steps since the last reading.

    Attributes:
        batch_size: Samples of a step, over all processes.
        matrix_rate: Measured operations per second of matrix products in one process.
    """

    batch_size: int
    matrix_rate: float
    num_processes: int = 1
    _num_steps: int = 0
    _data_s: float = 0.0
    _step_s: float = 0.0
    _grad_norm: float = 0.0
    _tokens: int = 0
    _flops: int = 0

    def add(
        self,
        *,
        data_s: float,
        step_s: float,
        grad_norm: float,
        tokens_per_sample: int,
        flops_per_sample: int,
    ) -> None:
        """Add one step.

        Args:
            data_s, step_s: Seconds spent on the batch, and all seconds.
            tokens_per_sample: Text and video tokens.
            flops_per_sample: Operations, forward and backward.
        """
        self._num_steps += 1
        self._data_s += data_s
        self._step_s += step_s
        self._grad_norm += grad_norm
        self._tokens += self.batch_size * tokens_per_sample
        self._flops += self.batch_size * flops_per_sample

    def read(self) -> dict[str, Any]:
        """Return the means and start over.

        `mfu` is the model's operations per second as a share of the measured matrix rate; recomputation and
        the optimizer count as time only. `data_share` is the share of time spent on batches.
        """
        seconds = max(self._step_s, 1e-9)
        samples_per_s = self._num_steps * self.batch_size / seconds
        values = {
            "grad_norm": self._grad_norm / max(self._num_steps, 1),
            "samples_per_s": round(samples_per_s, 3),
            "tokens_per_s": round(self._tokens / seconds, 1),
            "mfu": round(self._flops / seconds / (self.matrix_rate * self.num_processes), 4),
            "data_share": round(self._data_s / seconds, 4),
        }
        self._num_steps, self._data_s, self._step_s, self._grad_norm = 0, 0.0, 0.0, 0.0
        self._tokens, self._flops = 0, 0
        return values
