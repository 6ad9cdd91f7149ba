"""How a model's weights lie on the processes, and how whole tensors come out of and go into them.

Owns the use of torch's FSDP2 and DDP; `zero` owns that of DeepSpeed. The optimizers and checkpoints handle
tensors that may be shards.
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
from m2d.training.zero_shares import Spread, is_zero_share, share_of, spread_weight, whole_like

BLOCKS = "transformer_blocks"


Stored = Tensor | Spread
"""What a checkpoint holds, as it lies on the processes."""


def place(model: nn.Module, processes: Processes) -> None:
    """Put a model where its processes compute, in place: whole, or under FSDP2 in shares; names stay."""
    if processes.sharing == "zero3":
        # Shared out from where it is, weight by weight, when the optimizer is made.
        return
    if processes.sharing != "fsdp2":
        model.to(processes.device)
        return
    # Resharded after forward everywhere: a pass without gradients has no backward pass that would do it, and
    # the next pass would take the average's old weights.
    # Nothing of ours adds to a block's output in place, which is what torch warns of.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    options = {"reshard_after_forward": True, **_options(processes)}
    for block in model.get_submodule(BLOCKS).children():
        fully_shard(block, **options)
    fully_shard(model, **options)


def wrap(model: nn.Module, processes: Processes) -> nn.Module:
    """Return what is called instead of the model so that gradients are averaged over the processes."""
    if processes.sharing != "ddp":
        return model
    assert processes.accelerator is not None
    wrapped: nn.Module = processes.accelerator.prepare_model(model)
    return wrapped


def without_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Return a context in which backward passes leave their gradients in this process, under DDP.

    Under FSDP2 gradients are shared out after every backward pass all the same: whoever shards weights has no
    room for whole gradients.

    Args:
        model: What `wrap` returned.
    """
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def whole(tensor: Stored) -> Tensor:
    """Return all of a tensor; a sharded one is gathered, by all processes together."""
    if isinstance(tensor, Spread):
        return tensor.gather()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def outline(tensor: Stored) -> Tensor:
    """Return a tensor of the whole one's shape and type, whose values may be missing."""
    return tensor.like if isinstance(tensor, Spread) else tensor


def whole_shape(tensor: Tensor) -> torch.Size:
    """Return the shape of all of a tensor that may be sharded."""
    return whole_like(tensor).shape


@torch.no_grad()
def put(value: Tensor, target: Stored) -> None:
    """Overwrite a tensor with a whole value; every process keeps its own part."""
    if isinstance(target, Spread):
        target.put(value)
    else:
        target.copy_(like(value, target))


def like(value: Tensor, target: Tensor) -> Tensor:
    """Return the part of a whole tensor that lies here of `target`, on its device."""
    if not isinstance(target, DTensor):
        return value.to(target.device)
    # Every process has the whole value already: each cuts out its own part.
    return distribute_tensor(
        value.to(target.device), target.device_mesh, target.placements, src_data_rank=None
    )


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether only a part of the tensor lies here."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """Return what lies here of a tensor; changes to it change the tensor."""
    if is_zero_share(tensor):
        return share_of(tensor)
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_from(part: Tensor, target: Tensor) -> Tensor:
    """Gather a whole tensor from the parts that lie where those of `target` do."""
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
    """Return a model's weights and buffers by name, as they lie on the processes."""
    tensors = model.state_dict(keep_vars=True)
    return {
        name: spread_weight(tensor) if is_zero_share(tensor) else tensor.detach()
        for name, tensor in tensors.items()
    }


def _options(processes: Processes) -> dict[str, Any]:
    """What the launcher's configuration says about FSDP2: whether the weights wait in the CPU's memory."""
    assert processes.accelerator is not None
    plugin = getattr(processes.accelerator.state, "fsdp_plugin", None)
    # On CPUs Accelerate has no plugin: torch's own defaults hold.
    if plugin is None:
        return {}
    return {"offload_policy": plugin.cpu_offload}
