"""The processes that train together: who they are, and how they agree.

Owns the start of Accelerate and the few words that processes exchange; splits no weights (`sharding`) and no
batches. With one process nothing is exchanged and no process group is made.
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
from m2d.training.deepspeed_start import prepare_deepspeed
from m2d.training.launcher import Sharing, asked_sharing

__all__ = ["ALONE", "Processes", "Sharing", "start_processes"]

# The first process may encode a whole dataset while the others wait; launchers end them all when one fails.
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
        count: How many there are.
        index: Which one this is, from 0.
        device: Where this one computes.
        sharing: What they share: nothing (one process), gradients as sums (`ddp`), gradients and moments in
            shares (`zero2`), or weights in shares, too (`fsdp2`, `zero3`).
        accelerator: Accelerate's view of them: plugins, wrappers, trackers; None: it was not needed.
    """

    count: int = 1
    index: int = 0
    device: torch.device = _CPU
    sharing: Sharing = "none"
    accelerator: Accelerator | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.index == 0

    @property
    def shares_weights(self) -> bool:
        """Whether no process has all weights."""
        return self.sharing in ("fsdp2", "zero3")

    @property
    def uses_deepspeed(self) -> bool:
        """Whether DeepSpeed shares things out."""
        return self.sharing in ("zero2", "zero3")

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of every process's `values`; only called by all of them together."""
        if self.count == 1:
            return values
        total = values.detach().to(self.device).clone()
        dist.all_reduce(total)
        return total.to(values.device)

    def agree(self, wishes: Sequence[bool]) -> list[bool]:
        """Return for each wish whether any process has it, the same everywhere."""
        if self.count == 1:
            return list(wishes)
        return [bool(votes) for votes in self.sum(torch.tensor(wishes, dtype=torch.int32)).tolist()]

    def on_main(self, work: Callable[[], str], *, meanwhile: Callable[[], object] | None = None) -> str:
        """Do `work` in the main process and return in every process what it returned.

        Args:
            work: May raise; then every process raises, the others in the same words.
            meanwhile: What the others do to help, such as handing over their part of the weights.
        """
        if self.count == 1:
            return work()
        if not self.is_main:
            if meanwhile is not None:
                meanwhile()
            return self._hear()
        try:
            said = work()
        except BaseException as error:
            code = error.exit_code if isinstance(error, M2DError) else 1
            self._tell(f"{code}\n{error or type(error).__name__}")
            raise
        self._tell(f"0\n{said}")
        return said

    def leave(self) -> None:
        """Say goodbye when all is done; a process that fails leaves it to the launcher to end the others."""
        if self.count > 1:
            dist.destroy_process_group()

    def _tell(self, text: str) -> None:
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(self.device)
        dist.broadcast(torch.tensor([len(data)], device=self.device), src=0)
        dist.broadcast(data, src=0)

    def _hear(self) -> str:
        # As bytes: torch's own way to send objects pickles them.
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
    """Join the processes that a launcher started (`accelerate launch`, `torchrun`), or be the only one.

    Args:
        device: Where every process computes.

    Raises:
        BackendUnavailable: The device, or what the launcher's configuration asks for, is not there.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailable("device: cuda is not available here; set device: cpu, or train where it is")
    # Read before anything starts: a wish that cannot be met ends here.
    asked = asked_sharing(os.environ)
    if asked in ("zero2", "zero3"):
        prepare_deepspeed(device)
    # Precision is the recipe's business: autocast around forward and backward, weights in float32.
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
        # Accelerate knows FSDP and DeepSpeed on accelerators only; both work on CPUs, too.
        sharing=asked if accelerator.num_processes > 1 else "none",
        accelerator=accelerator,
    )
