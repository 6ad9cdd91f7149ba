"""Run one m2d command in a forked process that reports every forbidden thing it does.

Owns the limits on time and memory and the audit of files, sockets and child processes. Python's own opens are
audited; what libraries open by themselves is found by canaries (see `trials.py`).
"""

from __future__ import annotations

import gc
import os
import re
import resource
import select
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d.cli.main import main

LIMIT_S = 10.0
"""Processor time of one trial: wall time would depend on what else the machine does."""
KILLED_AFTER_S = 180.0
"""Wall time after which a command that waits is ended: long, because a busy machine delays every start."""
LIMIT_BYTES = 3 << 29
"""Memory of one trial: 1.5 GiB."""
# Address space: torch alone maps several GiB without using them. Stops a runaway before the machine suffers.
_ADDRESS_SPACE = 16 << 30
_LARGEST_FILE = 1 << 30
_SYSTEM = (
    "/usr",
    "/lib",
    "/etc",
    "/proc",
    "/sys",
    "/bin",
    "/opt",
    "/dev/null",
    "/dev/urandom",
    "/var/cache/fontconfig",
)
# The last two are what some trials name as the encoder.
_CHILDREN = ("ffmpeg", "fc-list", "python", "false", "nonexistent")


def load_everything() -> None:
    """Import what commands import, so that forked processes start at once."""
    import cv2  # noqa: F401
    import fontTools.ttLib  # noqa: F401
    import m2d_backends.aot
    import m2d_backends.onnx_session  # noqa: F401
    import rich.live
    import rich.progress
    import rich.table  # noqa: F401
    import typer.main
    from PIL import Image

    import m2d.cli.console
    import m2d.tasks.board
    import m2d.tasks.eval
    import m2d.tasks.export
    import m2d.tasks.extend
    import m2d.tasks.generate
    import m2d.tasks.inspect
    import m2d.tasks.reproduce
    import m2d.tasks.reroll
    import m2d.tasks.train
    import m2d.tasks.verify  # noqa: F401
    from m2d.cli.main import app

    Image.init()
    # The commands are built once, not by every trial.
    command = typer.main.get_command(app)
    typer.main.get_command = lambda _: command
    gc.freeze()


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a guarded command ended.

    Attributes:
        code: Exit code; negative for a signal, as in `subprocess`.
        stdout: Text written to stdout, and so on.
        seconds: Processor time.
        peak_bytes: Largest resident memory, with what the parent had loaded.
        breaches: Forbidden opens, sockets and child processes, one line each.
        is_late: Whether it used more than its limit, or waited until it was killed.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int
    breaches: tuple[str, ...]
    is_late: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Rooms:
    """Where a command may read and write.

    Attributes:
        case: Folder of the trial: its current folder, readable and writable.
        readable: Further files and folders that it may read.
        writable: Further folders that it may also write.
        outputs: Files and folders that it was told to make: these names, their temporary names beside them,
            and their parents, which are opened to sync them, but whose other files are not.
    """

    case: Path
    readable: tuple[Path, ...]
    writable: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()


class Guarded:
    """An `m2d` command in a forked process; `wait` ends it."""

    def __init__(
        self,
        words: list[str],
        rooms: Rooms,
        environment: dict[str, str],
        *,
        killed_after_s: float = KILLED_AFTER_S,
        state: Callable[[], object] = lambda: None,
        limit_s: float = LIMIT_S,
    ) -> None:
        self._killed_after_s, self._limit_s = killed_after_s, limit_s
        self._streams = {
            name: rooms.case.parent / f"{rooms.case.name}.{name}"
            for name in ("stdin", "stdout", "stderr", "breaches")
        }
        for path in self._streams.values():
            path.write_bytes(b"")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _be_the_command(words, rooms, environment, self._streams, state)

    def wait(self) -> Ending:
        """Wait for the end, at most `killed_after_s`."""
        watch = os.pidfd_open(self.pid)
        is_killed = not select.select([watch], [], [], self._killed_after_s)[0]
        os.close(watch)
        if is_killed:
            # The session of the command, with its ffmpeg.
            os.killpg(self.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self.pid, 0)
        texts = {name: path.read_text("utf-8", errors="replace") for name, path in self._streams.items()}
        for path in self._streams.values():
            path.unlink()
        seconds = usage.ru_utime + usage.ru_stime
        return Ending(
            code=os.waitstatus_to_exitcode(status),
            stdout=texts["stdout"],
            stderr=texts["stderr"],
            seconds=seconds,
            peak_bytes=usage.ru_maxrss * 1024,
            breaches=tuple(dict.fromkeys(texts["breaches"].splitlines())),
            is_late=is_killed or seconds > self._limit_s,
        )


def _be_the_command(
    words: list[str],
    rooms: Rooms,
    environment: dict[str, str],
    streams: dict[str, Path],
    state: Callable[[], object],
) -> None:
    """Turn this forked process into the command; never returns."""
    code = 1
    try:
        os.setsid()
        report = os.open(streams["breaches"], os.O_WRONLY | os.O_APPEND)
        for number, (name, flags) in enumerate(
            (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))
        ):
            os.dup2(os.open(streams[name], flags), number)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(number, mode, encoding="utf-8", closefd=False)
            for number, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        os.chdir(rooms.case)
        os.environ.clear()
        os.environ.update(environment)
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LARGEST_FILE, _LARGEST_FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["m2d", *words]
        # Python caches what it imports; that is no doing of the command.
        sys.dont_write_bytecode = True
        # Read TMPDIR again.
        tempfile.tempdir = None
        state()
        sys.addaudithook(Audit(rooms, report, streams.values()))
        main()
        code = 0
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


class Audit:
    """An audit hook that writes a line for everything a command must not do."""

    def __init__(self, rooms: Rooms, report: int, streams: Iterable[Path]) -> None:
        outputs = [os.path.realpath(path) for path in rooms.outputs]
        self._made = [
            re.compile(rf"{re.escape(path.rstrip('/'))}(/.*)?|{_temporary(path)}(/.*)?") for path in outputs
        ]
        self._synced = {str(parent) for path in outputs for parent in Path(path).parents}
        self._writable = (str(rooms.case), *map(os.path.realpath, rooms.writable), "/dev/null", "/dev/tty")
        libraries = (sys.prefix, sys.base_prefix, *(path for path in sys.path if path))
        readable = map(os.path.realpath, (*rooms.readable, *streams))
        self._readable = (*self._writable, *_SYSTEM, *readable, *libraries)
        self._report = report

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        line = ""
        if event == "open":
            line = self._open(*arguments[:3])
        elif event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"):
            line = f"{event} {arguments[1:]!r}" if _is_outward(event, arguments) else ""
        elif event in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
            name = Path(os.fsdecode(arguments[0])).name if arguments[0] is not None else ""
            line = "" if any(name.startswith(each) for each in _CHILDREN) else f"{event} {arguments[0]!r}"
        elif event in ("os.system", "pty.spawn"):
            line = f"{event} {arguments!r}"
        if line and not _is_search_for_a_temporary_folder():
            os.write(self._report, f"{line[:400]}\n".encode(errors="replace"))

    def _open(self, path: Any, mode: Any, flags: Any) -> str:
        if isinstance(path, int) or path is None:
            return ""
        name = os.path.realpath(os.fsdecode(path))
        is_writing = bool(
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        )
        rooms = self._writable if is_writing else self._readable
        if any(name == room or name.startswith(room.rstrip("/") + "/") for room in rooms):
            return ""
        if any(made.fullmatch(name) for made in self._made) or (not is_writing and name in self._synced):
            return ""
        return f"{'write' if is_writing else 'read'} {name} {mode or ''}".rstrip()


def _temporary(path: str) -> str:
    """The pattern of an output's temporary name: `.NAME.PID.part` beside it."""
    folder, name = os.path.split(path)
    return rf"{re.escape(folder.rstrip('/'))}/\.{re.escape(name)}\.\d+\.part"


def _is_search_for_a_temporary_folder() -> bool:
    """Whether Python tries the folders for temporary files in turn, as it does if one cannot be opened."""
    # This function, the hook, and what opens the file.
    return sys._getframe(2).f_code is tempfile._get_default_tempdir.__code__  # type: ignore[attr-defined]


def _is_outward(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether a socket leaves this process: pairs and local sockets of libraries do not."""
    if event == "socket.getaddrinfo":
        return True
    return getattr(arguments[0], "family", None) != socket.AF_UNIX
