"""Place a model's weights on the processes, and convert between sharded and whole tensors.

Owns the use of FSDP2 and DDP; `zero` owns DeepSpeed. Optimizers and checkpoints handle tensors that may be
sharded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from m2d.training.processes import Processes
from m2d.training.zero_shares import Spread, is_zero_share, share_of, spread_weight

BLOCKS = "transformer_blocks"
Stored = Tensor | Spread
"""A tensor of a checkpoint, which may be sharded over the processes."""


def place(model: nn.Module, processes: Processes) -> None:
    """Move a model to its processes' devices, in place: whole, or sharded under FSDP2; names stay."""
    if processes.sharing == "zero3":
        # The optimizer shards the model weight by weight from where it is.
        return
    if processes.sharing != "fsdp2":
        model.to(processes.device)
        return
    # Reshard after every forward pass: a pass without gradients has no backward pass to do it, and the next
    # pass would use the average's old weights.
    # torch warns about in-place changes of a block's output, which m2d never makes.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    assert processes.accelerator is not None
    options: dict[str, Any] = {"reshard_after_forward": True}
    # On CPUs Accelerate has no plugin, and torch's defaults apply.
    plugin = getattr(processes.accelerator.state, "fsdp_plugin", None)
    if plugin is not None:
        options["offload_policy"] = plugin.cpu_offload
    for block in model.get_submodule(BLOCKS).children():
        fully_shard(block, **options)
    fully_shard(model, **options)


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """Return the module to call instead of the model, which averages gradients over the processes."""
    if processes.sharing != "ddp":
        return model
    assert processes.accelerator is not None
    wrapped: nn.Module = processes.accelerator.prepare_model(model)
    return wrapped


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which backward passes of a result of `wrap` keep their gradients in this process.

    FSDP2 reduces gradients after every backward pass: a process has no memory for whole gradients.
    """
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def whole(tensor: Stored) -> Tensor:
    """Return the whole tensor; all processes call this together to gather a sharded one."""
    if isinstance(tensor, Spread):
        return tensor.gather()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def outline(tensor: Stored) -> Tensor:
    """Return a tensor of the whole tensor's shape and dtype, maybe without values."""
    return tensor.like if isinstance(tensor, Spread) else tensor


@torch.no_grad()
def put(value: Tensor, target: Stored) -> None:
    """Overwrite a tensor with a whole value; every process keeps its own shard."""
    if isinstance(target, Spread):
        target.put(value)
    else:
        target.copy_(like(value, target))


def like(value: Tensor, target: Tensor) -> Tensor:
    """Return this process's shard of a whole tensor, sharded like `target` and on its device."""
    if not isinstance(target, DTensor):
        return value.to(target.device)
    # Every process already has the whole value and cuts out its own shard.
    return distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor; changing it changes the tensor."""
    if is_zero_share(tensor):
        return share_of(tensor)
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_from(part: Tensor, target: Tensor) -> Tensor:
    """Gather a whole tensor from shards that are placed like those of `target`."""
    if not isinstance(target, DTensor):
        return part
    return DTensor.from_local(
        part, target.device_mesh, target.placements, shape=target.shape, stride=target.stride()
    ).full_tensor()


def wholes(tensors: Iterable[Stored]) -> Iterator[Tensor]:
    """Yield whole tensors on the CPU, one at a time."""
    for tensor in tensors:
        yield whole(tensor).detach().cpu()


def stored(model: nn.Module) -> dict[str, Stored]:
    """Return a model's weights and buffers by name, sharded ones as shards."""
    tensors = model.state_dict(keep_vars=True)
    return {
        name: spread_weight(tensor) if is_zero_share(tensor) else tensor.detach()
        for name, tensor in tensors.items()
    }
