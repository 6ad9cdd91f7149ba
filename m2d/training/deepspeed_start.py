"""DeepSpeed before it is used: whether it is there, what it computes on, and that it keeps quiet.

Owns nothing of the training itself, which `zero` shares out.
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

# `zero` names parts of DeepSpeed that are not its published interface.
_SERIES = "0.19."


def prepare_deepspeed(device: Literal["cpu", "cuda"]) -> None:
    """Make DeepSpeed ready to be used.

    Args:
        device: Where every process computes.

    Raises:
        BackendUnavailable: It is not installed, another version, or computes elsewhere.
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
    # Read when it is imported; it would take what it finds.
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed

    # Its log goes to the standard output, where m2d's results are.
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
