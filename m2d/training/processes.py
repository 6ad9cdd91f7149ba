"""The processes that train together, and the messages they exchange.

Owns the start of Accelerate; splits no weights (`sharding`) and no batches. A single process exchanges
nothing and makes no process group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor

from m2d.errors import (
    EXIT_BAD_INPUT,
    EXIT_RESUMABLE,
    EXIT_UNAVAILABLE,
    BackendUnavailable,
    InputError,
    Interrupted,
    M2DError,
)
from m2d.training.launcher import Sharing, asked_sharing, prepare_deepspeed

# The first process may encode a whole dataset while the others wait; launchers end all if one fails.
_LONGEST_WAIT = timedelta(hours=24)
_CPU = torch.device("cpu")
_ERRORS: dict[int, type[M2DError]] = {
    EXIT_BAD_INPUT: InputError,
    EXIT_UNAVAILABLE: BackendUnavailable,
    EXIT_RESUMABLE: Interrupted,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """All processes of a training, seen from one of them.

    Attributes:
        index: Index of this process, from 0.
        device: Device of this process.
        sharing: `none` (one process); `ddp` (gradients are averaged); `zero2` (gradients and moments are
            sharded); `fsdp2` or `zero3` (weights are sharded, too).
        accelerator: Accelerate's plugins, wrappers and trackers; None without Accelerate.
    """

    count: int = 1
    index: int = 0
    device: torch.device = _CPU
    sharing: Sharing = "none"
    accelerator: Accelerator | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports."""
        return self.index == 0

    @property
    def shares_weights(self) -> bool:
        """Whether the weights are sharded over the processes."""
        return self.sharing in ("fsdp2", "zero3")

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed shards the training."""
        return self.sharing in ("zero2", "zero3")

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all processes, which call this together."""
        if self.count == 1:
            return values
        total = values.detach().to(self.device).clone()
        dist.all_reduce(total)
        return total.to(values.device)

    def agree(self, votes: Sequence[bool]) -> list[bool]:
        """Return for each vote whether any process says yes; the result is the same in all processes."""
        if self.count == 1:
            return list(votes)
        return [bool(count) for count in self.sum(torch.tensor(votes, dtype=torch.int32)).tolist()]

    def on_main(self, work: Callable[[], str], *, meanwhile: Callable[[], object] | None = None) -> str:
        """Do `work` in the main process and return its result in every process.

        Args:
            work: May raise; then every process raises an error with the same message.
            meanwhile: Runs in the other processes, for example to hand over their shards of the weights.
        """
        if self.count == 1:
            return work()
        if not self.is_main:
            if meanwhile is not None:
                meanwhile()
            return self._receive()
        try:
            result = work()
        except BaseException as error:
            code = error.exit_code if isinstance(error, M2DError) else 1
            self._send(f"{code}\n{error or type(error).__name__}")
            raise
        self._send(f"0\n{result}")
        return result

    def leave(self) -> None:
        """Close the process group; after a failure, the launcher ends the other processes."""
        if self.count > 1:
            dist.destroy_process_group()

    def _send(self, text: str) -> None:
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device)
        dist.broadcast(torch.tensor([len(data)], device=self.device), src=0)
        dist.broadcast(data, src=0)

    def _receive(self) -> str:
        # As bytes, because torch would pickle objects.
        size = torch.zeros(1, dtype=torch.int64, device=self.device)
        dist.broadcast(size, src=0)
        data = torch.empty(int(size), dtype=torch.uint8, device=self.device)
        dist.broadcast(data, src=0)
        code, _, text = bytes(data.tolist()).decode().partition("\n")
        if code != "0":
            raise _ERRORS.get(int(code), M2DError)(f"process 0 failed: {text}")
        return text


ALONE = Processes()
"""One process that computes on the CPU."""


def start_processes(device: Literal["cpu", "cuda"]) -> Processes:
    """Join the processes of a launcher (`accelerate launch`, `torchrun`), or be the only process.

    Raises:
        BackendUnavailable: The device or a setting of the launcher's configuration is not available.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("device: cuda is not available here; set device: cpu, or train where it is")
    # Read first, so that an unsupported setting is rejected before anything starts.
    asked = asked_sharing(os.environ)
    if asked in ("zero2", "zero3"):
        prepare_deepspeed(device)
    # The recipe sets the precision: autocast around forward and backward, weights in float32.
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="no",
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )
    return Processes(
        count=accelerator.num_processes,
        index=accelerator.process_index,
        # Accelerate numbers CPUs by process; torch knows one.
        device=_CPU if device == "cpu" else accelerator.device,
        # Accelerate reports FSDP and DeepSpeed on accelerators only, though both also work on CPUs.
        sharing=asked if accelerator.num_processes > 1 else "none",
        accelerator=accelerator,
    )
