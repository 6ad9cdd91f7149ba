"""Check that DeepSpeed is installed and computes on the right device, and keep its log off stdout.

`zero` trains with it.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import Literal

from m2d.errors import BackendUnavailable

# `zero` uses parts of DeepSpeed that are not a public interface.
_SERIES = "0.19."


def prepare_deepspeed(device: Literal["cpu", "cuda"]) -> None:
    """Import DeepSpeed and check it.

    Args:
        device: Device of every process.

    Raises:
        BackendUnavailable: DeepSpeed is missing, has another version or uses another device.
    """
    if find_spec("deepspeed") is None:
        raise BackendUnavailable(
            "distributed_type: DEEPSPEED needs the package deepspeed; install it with `pip install "
            "'m2d[deepspeed]'`, or use recipes/training/accelerate-fsdp2.yaml"
        )
    found = version("deepspeed")
    if not found.startswith(_SERIES):
        raise BackendUnavailable(
            f"deepspeed {found} is installed, m2d works with {_SERIES}x; install it with `pip install "
            "'m2d[deepspeed]'`"
        )
    # DeepSpeed reads the variable when it is imported; without it, it picks a device itself.
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    # DeepSpeed logs to standard output, which is for m2d's results.
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)
    warnings.filterwarnings("ignore", message=".*_into_tensor` is deprecated", category=FutureWarning)
    warnings.filterwarnings(
        "ignore", message=".*reduce_scatter_tensor` is deprecated", category=FutureWarning
    )
    theirs = deepspeed.get_accelerator().device_name()
    if theirs != device:
        raise BackendUnavailable(
            f"device: {device}, but DeepSpeed computes on {theirs}; unset the variable DS_ACCELERATOR"
        )
