"""The folder for files that m2d can regenerate: exported graphs, compiled code, encoded stories."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return `$M2D_CACHE`, or `m2d` in the user's cache folder (`$XDG_CACHE_HOME`, by default `~/.cache`)."""
    named = os.environ.get("M2D_CACHE")
    if named:
        return Path(named).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "m2d"
