"""Stop requests: a flag that SIGTERM and SIGINT set and long loops poll, and a Ctrl-C that is never lost."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from m2d.errors import Interrupted, Remedy

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_AGAIN_S = 0.01
# What `repeat_lost_interrupt` was told of.
_lost: list[signal.Signals] = []


class StopRequest:
    """Turns the first SIGTERM or SIGINT into a flag; a second one has its usual effect.

    A context manager for the main thread; in other threads Python cannot handle signals, and it does nothing.
    A request around this one is set, too: whoever makes several films learns of a signal that came too late
    to end one of them.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def reason(self) -> str:
        """Name of the received signal, or an empty string."""
        return self._signal.name if self._signal is not None else ""

    def check(self, doing: str, *, remedy: Remedy | None = None) -> None:
        """Stop if asked to; `doing` says what is interrupted and what is kept.

        Raises:
            Interrupted: A signal came.
        """
        if self.reason:
            raise Interrupted(f"{self.reason} {doing}", remedy=remedy)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        around = getattr(self._previous.get(signal.Signals(number)), "__self__", None)
        self._signal = signal.Signals(number)
        self._restore()
        if isinstance(around, StopRequest):
            around._on_signal(number, frame)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def repeat_lost_interrupt(lost: sys.UnraisableHookArgs) -> None:
    """Press Ctrl-C once more where a callback of C dropped it, as pydantic's do; for `sys.unraisablehook`."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    _lost.append(signal.SIGINT)
    # Not here, where it would be dropped again.
    again = threading.Timer(_AGAIN_S, _thread.interrupt_main)
    again.daemon = True
    again.start()


def was_interrupted() -> bool:
    """Whether a Ctrl-C was dropped; the repeated one may have been dropped as well."""
    return bool(_lost)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C or SIGTERM end the block at once, or at the latest at its end; for imports.

    Some libraries catch every exception during their import, and Python drops exceptions raised in `__del__`.
    A Ctrl-C at such a moment would be lost, and SIGTERM would end the process without a word.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        Interrupted: SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # Background jobs of a shell ignore SIGINT, a program around this one may handle SIGTERM, and other
    # threads cannot handle signals.
    heard = {signal.SIGINT} if callable(handlers[signal.SIGINT]) else set()
    heard |= {signal.SIGTERM} if handlers[signal.SIGTERM] is signal.SIG_DFL else set()
    if threading.current_thread() is not threading.main_thread():
        heard = set()
    asked: list[int] = []

    def hear(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        previous = handlers[signal.Signals(number)]
        if callable(previous):
            previous(number, frame)
        else:
            raise KeyboardInterrupt

    for number in heard:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, handlers[number])
        if asked[:1] == [signal.SIGTERM]:
            raise Interrupted("SIGTERM before the work began: run the same command again") from None
        if asked or was_interrupted():
            raise KeyboardInterrupt
