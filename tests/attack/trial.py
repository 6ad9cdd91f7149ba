"""One trial: a command, and what was changed before it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.attack.states import obey_permissions


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One command on changed input.

    Attributes:
        words: Arguments of `m2d`.
        what: What was changed.
        environment: Variables that differ.
        state: What the command's process does first.
        is_silent: Whether it may end without a word.
    """

    words: list[str]
    what: str
    environment: dict[str, str] = field(default_factory=dict)
    state: Callable[[], object] = obey_permissions
    is_silent: bool = False


Attack = Callable[[Path, Path, random.Random], Trial]
