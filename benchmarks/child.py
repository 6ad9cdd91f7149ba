"""A child process that does some work, can be watched while it does, and ended at any moment.

Owns processes and what they tell; what they do is the business of who starts them. Needs a system that forks
(Linux, macOS): libraries are loaded once, and a child is at work within milliseconds.
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
"""What comes before a run's first stage, after its last, and when its work is done."""
LONGEST_SILENCE_S = 300.0
_ASKS_TO_STOP = (signal.SIGINT, signal.SIGTERM)


class Told(NamedTuple):
    """Something a child process said: a stage it entered, a note, a warning, or why it failed."""

    kind: Literal["stage", "note", "warning", "error"]
    text: str
    at_s: float


class Teller(SilentReporter):
    """Reports to another process, as it happens."""

    def __init__(self, descriptor: int) -> None:
        """Tell it through a pipe."""
        self.descriptor = descriptor

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        self.tell("stage", name)
        with super().stage(name, total=total) as progress:
            yield progress
        if name == "write":
            self.tell("stage", FINISH)

    def note(self, message: str) -> None:
        self.tell("note", message)

    def warn(self, message: str, *, remedy: Remedy | None = None) -> None:
        self.tell("warning", f"{message} ({remedy})" if remedy else message)

    def tell(self, kind: str, text: str) -> None:
        line = json.dumps([kind, text, time.monotonic()])
        os.write(self.descriptor, f"{line}\n".encode("ascii"))


class Child:
    """A process of its own session that does `work`; fork it before torch has started any thread."""

    def __init__(self, work: Callable[[Teller], object]) -> None:
        self._reader, writer = os.pipe()
        self.began_s = time.monotonic()
        # A signal that comes before the child can tell of it would end it as a copy of this program.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKS_TO_STOP)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._reader)
            _work_and_exit(work, writer, mask)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(writer)
        self.told: list[Told] = []
        self._rest = b""

    @property
    def stage(self) -> str:
        """The stage it was in when it was last heard."""
        return ([BEGIN] + [told.text for told in self.told if told.kind == "stage"])[-1]

    @property
    def complaint(self) -> str:
        """Why it failed, in its own words."""
        return "".join(told.text for told in self.told if told.kind == "error")

    def spans_s(self) -> dict[str, float]:
        """How long each stage took that has ended."""
        stages = [told for told in self.told if told.kind == "stage"]
        begins = [(BEGIN, self.began_s), *((told.text, told.at_s) for told in stages)]
        return {name: end_s - at_s for (name, at_s), (_, end_s) in itertools.pairwise(begins)}

    def wait_for(self, stage: str) -> bool:
        """Wait until it is in `stage`; False: it has ended."""
        while self.stage != stage:
            if not self._hear():
                return False
        return True

    def kill(self, *, with_encoder: bool) -> None:
        """End it as a kill would, alone or with all of its own children at once."""
        self.signal(signal.SIGKILL, with_encoder=with_encoder)

    def signal(self, number: signal.Signals, *, with_encoder: bool) -> None:
        """Send a signal, to it alone or to all of its own children, too."""
        for pid in [self.pid, *(_others_of_session(self.pid) if with_encoder else [])]:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    @property
    def has_ended(self) -> bool:
        """Whether it has, waited for or not."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> int:
        """Wait for its end; its exit code, or minus the signal that ended it."""
        while self._hear():
            pass
        os.close(self._reader)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _hear(self) -> bool:
        """Wait until it says something; False: it has ended."""
        if not select.select([self._reader], [], [], LONGEST_SILENCE_S)[0]:
            self.kill(with_encoder=True)
            raise TimeoutError(f"in stage {self.stage!r}, nothing was heard for {LONGEST_SILENCE_S:.0f} s")
        heard = os.read(self._reader, 1 << 16)
        *lines, self._rest = (self._rest + heard).split(b"\n")
        self.told += [Told(*json.loads(line)) for line in lines]
        return bool(heard)


def _work_and_exit(work: Callable[[Teller], object], writer: int, mask: set[signal.Signals | int]) -> None:
    os.setsid()
    teller, code = Teller(writer), EXIT_FAILED
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work(teller)
        teller.tell("stage", END)
        code = 0
    except M2DError as error:
        teller.tell("error", str(error))
        code = error.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException:
        teller.tell("error", traceback.format_exc())
        raise
    finally:
        sys.stderr.flush()
        os._exit(code)


def _others_of_session(leader: int) -> list[int]:
    """All processes that `leader` has started, and those they have; none where the system does not tell."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name before it is in parentheses and may hold anything.
            session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
        except (OSError, ValueError, IndexError):
            continue
        if session == leader and int(folder.name) != leader:
            found.append(int(folder.name))
    return found
