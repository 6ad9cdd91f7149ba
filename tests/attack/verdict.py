"""The verdict on a command that was attacked: what must not happen and did."""

from __future__ import annotations

import re
from pathlib import Path

from tests.attack.guard import LIMIT_BYTES, LIMIT_S, Ending
from tests.attack.mutations import MARKER
from tests.attack.originals import CANARY

_FULL, _NOT_MADE = ("No space left on device", "the disk is full"), "films were not made"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def judge(
    ending: Ending,
    case: Path,
    *,
    is_silent: bool = False,
    may_show: bool = False,
    is_coloured: bool = False,
) -> list[str]:
    """Return what must not happen and did.

    Args:
        is_silent: Whether the command may end without a word.
        may_show: Whether it may quote the foreign file.
        is_coloured: Whether it was asked for colours; no input of such a trial has any.
    """
    stdout, stderr = (
        _COLOURS.sub("", text) if is_coloured else text for text in (ending.stdout, ending.stderr)
    )
    said = stdout + stderr
    wrong = []
    if ending.is_late:
        wrong.append(f"more than {LIMIT_S:.0f} s of work, or no end")
    elif ending.code not in (0, 1, 2, 3):
        wrong.append(f"exit code {ending.code}")
    if "Traceback (most recent call last)" in said:
        wrong.append("a traceback")
    if ending.code in (1, 2, 3) and not is_silent and not _is_refusal(stderr):
        wrong.append("refused without a line that says why")
    if ending.peak_bytes > LIMIT_BYTES:
        wrong.append(f"{ending.peak_bytes >> 20} MiB of memory")
    wrong += [f"forbidden: {breach}" for breach in ending.breaches]
    if any(case.parent.rglob(MARKER)):
        wrong.append("code was run")
    if CANARY in said and not may_show:
        wrong.append("a foreign file was shown")
    if not ending.is_late and any(path.name.endswith(".part") for path in case.parent.rglob("*")):
        wrong.append("a half-written file is left")
    if "\x1b[31m" in said or "\u202e" in said:
        wrong.append("control characters of the input were printed")
    return wrong


def complaints_about_a_full_disk(ending: Ending, *, makes_several: bool) -> list[str]:
    """What is wrong with how a command ended whose disk was full at one moment or from then on.

    Args:
        makes_several: Whether it makes several films, each of which may fail, and a picture of all.
    """
    wrong = [f"forbidden: {breach}" for breach in ending.breaches]
    if "Traceback" in ending.stdout + ending.stderr:
        wrong.append(f"a traceback: {ending.stderr[-1500:]}")
    if ending.code == 0:
        # It was no part of the result, or came after it.
        return wrong
    errors = [line for line in ending.stderr.splitlines() if line.startswith("error: ")]
    # Of several films, one line counts those that were not made.
    causes = [line for line in errors if not line.endswith(_NOT_MADE)]
    is_one = len(causes) == 1 or (causes and makes_several)
    if ending.code != 1 or not is_one or not all(map(_says_full, causes)):
        wrong.append(f"ended with {ending.code}: {ending.stderr[-300:]!r}")
    return wrong


def _says_full(line: str) -> bool:
    return any(word in line for word in _FULL)


def _is_refusal(stderr: str) -> bool:
    """Whether one line says what is wrong."""
    return any(line.startswith(("error: ", "Error: ", "Usage: ")) for line in stderr.splitlines())
