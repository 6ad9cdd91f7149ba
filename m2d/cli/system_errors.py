"""Errors of the operating system, as a line for the user and an exit code; everything else is a bug."""

from __future__ import annotations

import errno
import os
import re
from typing import NamedTuple

from m2d.errors import EXIT_BAD_INPUT, EXIT_FAILED, first_line
from m2d.reading import name_problem

_DISK_FULL = "the disk is full; nothing was left half-written. Free some space and run it again."
_NO_MEMORY = (
    "there is not enough memory; nothing was left half-written. Free some memory, or make a smaller film"
)
_NO_FILES = (
    "too many files are open; nothing was left half-written. Raise the limit (ulimit -n) and run it again"
)
_NO_PROCESSES = "no more threads or processes can be started; raise the limit (ulimit -u) and run it again"
_BY_CODE = {
    errno.ENOSPC: _DISK_FULL,
    errno.EDQUOT: _DISK_FULL,
    errno.ENOMEM: _NO_MEMORY,
    errno.EMFILE: _NO_FILES,
    errno.ENFILE: _NO_FILES,
    errno.EAGAIN: _NO_PROCESSES,
}
# The path that was given is at fault, not the machine.
_OF_A_PATH = frozenset(
    {
        *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
        *(errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EFBIG, errno.ENODEV, errno.ENXIO),
    }
)
# What libraries and the loader of shared libraries say in place of an error number.
_BY_TEXT = (
    ("DefaultCPUAllocator", _NO_MEMORY),
    ("out of memory", _NO_MEMORY),
    ("annot allocate memory", _NO_MEMORY),
    ("failed to map segment", _NO_MEMORY),
    ("std::bad_alloc", _NO_MEMORY),
    ("Too many open files", _NO_FILES),
    ("No space left on device", _DISK_FULL),
    ("can't start new thread", _NO_PROCESSES),
)
# Libraries in Rust, such as safetensors, have exceptions of their own and give the number in words.
_IN_RUST = re.compile(r"\(os error (\d+)\)")
_MAY_SAY_SO = (RuntimeError, ImportError, SystemError, ValueError)


class SystemProblem(NamedTuple):
    """A line for the user, and the exit code."""

    message: str
    exit_code: int


def system_problem(error: BaseException) -> SystemProblem | None:
    """Return what the operating system refused; None if `error` is something else.

    An error may hide behind the one that a library raised because of it.
    """
    cause: BaseException | None = error
    while cause is not None:
        found = _problem_of(cause)
        if found is not None:
            return found
        cause = cause.__cause__
    return None


def _problem_of(error: BaseException) -> SystemProblem | None:
    if isinstance(error, MemoryError):
        return SystemProblem(_NO_MEMORY, EXIT_FAILED)
    if isinstance(error, OSError):
        if error.errno in _BY_CODE:
            return SystemProblem(_BY_CODE[error.errno], EXIT_FAILED)
        reason = error.strerror or first_line(error)
        place = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        is_of_a_path = error.errno in _OF_A_PATH and error.filename is not None
        return SystemProblem(f"{place}{reason}", EXIT_BAD_INPUT if is_of_a_path else EXIT_FAILED)
    if isinstance(error, UnicodeEncodeError) and (problem := name_problem(error.object)):
        # Python met a name of a file that the locale's encoding cannot write.
        return SystemProblem(f"{error.object}: {problem}", EXIT_BAD_INPUT)
    in_rust = _IN_RUST.search(str(error))
    if in_rust and int(in_rust[1]) in _BY_CODE:
        return SystemProblem(_BY_CODE[int(in_rust[1])], EXIT_FAILED)
    if isinstance(error, _MAY_SAY_SO):
        text = next((message for sign, message in _BY_TEXT if sign in str(error)), None)
        return None if text is None else SystemProblem(text, EXIT_FAILED)
    return None
