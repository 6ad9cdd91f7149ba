"""One trial: a command, and what was changed before it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
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


_OUTPUTS = ("--out", "--cache")
# Variables that name a folder to write in.
_FOLDERS = (
    "FONTCONFIG_FILE", "HF_HOME", "HF_HUB_CACHE", "HOME", "M2D_CACHE", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_HOME", "TRANSFORMERS_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME",
)  # fmt: skip


def named_paths(trial: Trial, case: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the paths that a command and its variables name to be read, and those to be made.

    A value of `--set image=PATH` is one, too; a word that is no path names a file that is not there.
    """
    read: list[Path] = []
    made = [case / value for name, value in trial.environment.items() if name in _FOLDERS and value]
    before = ""
    for word in trial.words[1:]:
        for text in {word, word.partition("=")[2]} - {""}:
            with suppress(ValueError, OSError):
                path = Path(os.path.realpath(case / text))
                (made if before in _OUTPUTS or trial.words[0] == "init" else read).append(path)
        before = word
    return tuple(read), tuple(made)
