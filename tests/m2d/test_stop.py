"""That Ctrl-C is never lost, whoever catches it first."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from m2d import stop
from m2d.errors import Interrupted
from m2d.stop import StopRequest, ended_by_signals, repeat_lost_interrupt


def press_and_go_on(done: list[str]) -> None:
    signal.raise_signal(signal.SIGINT)
    done.append("all")


def swallow_and_go_on(done: list[str]) -> None:
    with contextlib.suppress(BaseException):
        signal.raise_signal(signal.SIGINT)
    done.append("all")


def turn_into_another(done: list[str]) -> None:
    try:
        press_and_go_on(done)
    except BaseException as error:
        raise ImportError from error


@pytest.mark.parametrize(
    ("load", "expected"), [(press_and_go_on, []), (swallow_and_go_on, ["all"]), (turn_into_another, [])]
)
def test_ctrl_c_ends_the_block_where_it_is_or_at_its_end(
    load: Callable[[list[str]], None], expected: list[str]
) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        load(done)
    assert done == expected


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_sigterm_while_libraries_load_ends_with_a_line_and_not_without_a_word(is_swallowed: bool) -> None:
    def load() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            if not is_swallowed:
                raise

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(Interrupted, match="SIGTERM before the work began"), ended_by_signals():
            load()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_ctrl_c_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError, match="torch"), ended_by_signals():
        raise ImportError("torch")
    with ended_by_signals():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ended_by_signals():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_load_libraries_too() -> None:
    problems: list[BaseException] = []

    def load() -> None:
        try:
            with ended_by_signals():
                pass
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert problems == []


def test_a_signal_that_comes_too_late_for_a_block_reaches_the_one_around_it() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as series:
        with StopRequest() as film:
            signal.raise_signal(signal.SIGINT)
            # A second one has its usual effect, however many requests there are.
            assert signal.getsignal(signal.SIGINT) is before
        assert film.reason == series.reason == "SIGINT"
    with pytest.raises(Interrupted, match="SIGINT ended the series"):
        series.check("ended the series")


def test_ctrl_c_that_a_callback_dropped_comes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", repeat_lost_interrupt)
    monkeypatch.setattr(stop, "_lost", [])

    class Dropping:
        def __del__(self) -> None:
            # Python drops what is raised here.
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        wait_after(Dropping())
    # The repeated one may be dropped, too: then the next import ends.
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        pass


def wait_after(dropping: object) -> None:
    del dropping
    for _ in range(500):
        time.sleep(0.01)
