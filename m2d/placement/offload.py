"""Lets a network's weights wait in the CPU's memory while they are not used, with diffusers' hooks.

Owns which hooks belong to which mode; no mode changes a result.
"""

from __future__ import annotations

from itertools import islice

import torch
from torch import nn

from m2d.placement.modes import MemoryMode

_LEVELS = {"group-offload": "block_level", "sequential": "leaf_level"}
_HOOK = "group_offloading"


def waits_on_cpu(mode: MemoryMode) -> bool:
    """Whether a network is loaded into the CPU's memory in this mode."""
    return mode in _LEVELS


def offload(module: nn.Module, mode: MemoryMode, device: str | torch.device) -> None:
    """Let a network, loaded into the CPU's memory, compute on a device, a part at a time.

    `group-offload` copies one block while another one computes, where the device can do that. Modes that keep
    the network together change nothing.
    """
    if mode not in _LEVELS:
        return
    from diffusers.hooks import apply_group_offloading

    target, is_grouped = torch.device(device), mode == "group-offload"
    apply_group_offloading(
        module,
        onload_device=target,
        offload_device=torch.device("cpu"),
        offload_type=_LEVELS[mode],
        num_blocks_per_group=1 if is_grouped else None,
        use_stream=is_grouped and target.type == "cuda",
    )
    if not is_grouped:
        for part in module.modules():
            # Read by the module around it, whose hook does not know it: small, and always on the device.
            if isinstance(part, nn.ParameterDict):
                nn.Module.to(part, target)


def empty(module: nn.Module) -> None:
    """Free a network's weights wherever they are, even if others still reference it."""
    for part in module.modules():
        # Its hooks hold copies in pinned memory.
        registry = getattr(part, "_diffusers_hook", None)
        if registry is not None and registry.get_hook(_HOOK) is not None:
            registry.remove_hook(_HOOK, recurse=False)
    # Not the network's own method: diffusers' refuses to move what it offloads.
    nn.Module.to(module, "meta")


def is_empty(module: nn.Module) -> bool:
    """Whether a network's weights were freed."""
    return any(weight.is_meta for weight in islice(module.parameters(), 1))
