"""A child process that works, reports its stages, and can be ended at any moment.

Owns processes and their messages; the caller decides what they do. Needs a system that forks (Linux, macOS):
libraries are loaded once, and a child starts to work within milliseconds.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from m2d.errors import EXIT_FAILED, M2DError, Remedy
from m2d.progress import SilentReporter, StageProgress

BEGIN, FINISH, END = "begin", "finish", "end"
"""Stages before the first stage of a run, after its last, and when its work is done."""
LONGEST_SILENCE_S = 300.0
_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM)


class Message(NamedTuple):
    """A message of a child process: a stage it entered, a note, a warning, or its error."""

    kind: Literal["stage", "note", "warning", "error"]
    text: str
    at_s: float


class PipeReporter(SilentReporter):
    """A reporter that sends every event to another process."""

    def __init__(self, descriptor: int) -> None:
        """Write messages to a pipe."""
        self.descriptor = descriptor

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        self.send("stage", name)
        with super().stage(name, total=total) as progress:
            yield progress
        if name == "write":
            self.send("stage", FINISH)

    def note(self, message: str) -> None:
        self.send("note", message)

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        self.send("warning", f"{message} ({remedy})" if remedy else message)

    def send(self, kind: str, text: str) -> None:
        line = json.dumps([kind, text, time.monotonic()])
        os.write(self.descriptor, f"{line}\n".encode("ascii"))


class Child:
    """A process in its own session that does `work`; fork it before torch starts any thread."""

    def __init__(self, work: Callable[[PipeReporter], object]) -> None:
        self._reader, writer = os.pipe()
        self.began_s = time.monotonic()
        # A signal before the child has its own handlers would end it as a copy of this program.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKS_TO_STOP)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _work_and_exit(work, writer, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writer)
        self.messages: list[Message] = []
        self._rest = b""

    @property
    def stage(self) -> str:
        """Return the stage of the last message."""
        return ([BEGIN] + [message.text for message in self.messages if message.kind == "stage"])[-1]

    @property
    def error(self) -> str:
        """Return the text of its error, or an empty text."""
        return "".join(message.text for message in self.messages if message.kind == "error")

    def spans_s(self) -> dict[str, float]:
        """Return the seconds of each finished stage."""
        stages = [message for message in self.messages if message.kind == "stage"]
        begins = [(BEGIN, self.began_s), *((message.text, message.at_s) for message in stages)]
        return {name: end_s - at_s for (name, at_s), (_, end_s) in itertools.pairwise(begins)}

    def wait_for(self, stage: str) -> bool:
        """Wait until it is in `stage`; return False if it has ended."""
        while self.stage != stage:
            if not self._receive():
                return False
        return True

    def kill(self, *, with_encoder: bool) -> None:
        """Kill it, alone or together with all of its own children."""
        self.signal(signal.SIGKILL, with_encoder=with_encoder)

    def signal(self, number: signal.Signals, *, with_encoder: bool) -> None:
        """Send it a signal, alone or together with all of its own children."""
        for pid in [self.pid, *(_others_of_session(self.pid) if with_encoder else [])]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended, waited for or not."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Wait for its end; return its exit code, or minus the signal that ended it."""
        while self._receive():
            pass
        os.close(self._reader)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _receive(self) -> bool:
        """Wait for messages; return False if it has ended."""
        if not select.select([self._reader], [], [], LONGEST_SILENCE_S)[0]:
            self.kill(with_encoder=True)
            raise TimeoutError(f"in stage {self.stage!r}, no message for {LONGEST_SILENCE_S:.0f} s")
        received = os.read(self._reader, 1 << 16)
        *lines, self._rest = (self._rest + received).split(b"\n")
        self.messages += [Message(*json.loads(line)) for line in lines]
        return bool(received)


def _work_and_exit(
    work: Callable[[PipeReporter], object], writer: int, mask: set[signal.Signals | int]
) -> None:
    os.setsid()
    reporter, code = PipeReporter(writer), EXIT_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work(reporter)
        reporter.send("stage", END)
        code = 0
    except M2DError as error:
        reporter.send("error", f"{error} ({error.remedy})" if error.remedy else str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        reporter.send("error", traceback.format_exc())
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def _others_of_session(leader: int) -> list[int]:
    """Return all processes in the session of `leader` but itself; none on systems without /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name before it is in parentheses and may contain any character.
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):
            continue
        if session == leader and int(folder.name) != leader:
            found.append(int(folder.name))
    return found
