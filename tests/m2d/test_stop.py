"""That Ctrl-C is never lost, whoever catches it first."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable

import pytest

from m2d.stop import ended_by_ctrl_c


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
    with pytest.raises(KeyboardInterrupt), ended_by_ctrl_c():
        load(done)
    assert done == expected


def test_without_ctrl_c_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ImportError, match="torch"), ended_by_ctrl_c():
        raise ImportError("torch")
    with ended_by_ctrl_c():
        pass
    assert signal.getsignal(signal.SIGINT) is before


def test_a_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with ended_by_ctrl_c():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_load_libraries_too() -> None:
    problems: list[BaseException] = []

    def load() -> None:
        try:
            with ended_by_ctrl_c():
                pass
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert problems == []
