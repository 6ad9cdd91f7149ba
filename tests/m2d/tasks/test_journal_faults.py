"""Whatever happens to the disk, and when: the next run finds a state that the run before it really had."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from m2d.errors import InputError, OutputError
from m2d.film.journal_folder import journal_folder_of, read_request
from tests.m2d.faults import FaultyDisk, refuse, run_until_crash
from tests.m2d.tasks.journals import (
    ACTIONS,
    EMPTY,
    VERSIONS,
    RecordingReporter,
    Snapshot,
    finished,
    keep,
    opened,
    resumed,
)

OTHER = {"kind": "extend"}
NOTHING = None
STATES: list[Snapshot | None] = [NOTHING, EMPTY, *(snapshot for _, snapshot in ACTIONS), NOTHING]
"""What is there after so many steps of `make`."""


def make(film: Path, told: Callable[[], None], **changes: object) -> None:
    """Run from the beginning to the end, telling after every step."""
    with opened(film, **changes) as journal:
        told()
        for action, _ in ACTIONS:
            action(journal)
            told()
        journal.finish()
        told()


def found(film: Path, **changes: object) -> Snapshot | None:
    """What a resumed run is given; nothing when there is nothing to resume."""
    if read_request(film) is not None:
        return resumed(film, **changes)
    with pytest.raises(InputError, match="nothing to resume"):
        resumed(film, **changes)
    # What a crash while it was removed left is gone.
    assert list(film.parent.iterdir()) == []
    return NOTHING


def check_no_trace(film: Path) -> None:
    """Neither the run before this leaves a stray or a lock, nor a complete one after it anything at all."""
    assert [path.name for path in film.parent.rglob(".*")] == []
    with opened(film, force=True) as journal:
        journal.finish()
    assert list(film.parent.iterdir()) == []


STEPS = [4, pytest.param(1, marks=pytest.mark.long)]
"""Of how many operations one crashes: a fork for each takes time."""


def films(folder: Path, *, like: Path | None = None, step: int = 1) -> Iterator[tuple[int, Path]]:
    """Numbers from 1 and a film for each, in a folder of its own that begins as a copy of `like`."""
    for number in itertools.count(1, step):
        own = folder / str(number)
        own.mkdir() if like is None else shutil.copytree(like, own)
        yield number, own / "story.mp4"


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_operation_leaves_the_newest_state_or_the_one_before(
    tmp_path: Path, step: int
) -> None:
    for at, film in films(tmp_path, step=step):
        crashed, finished = run_until_crash(lambda told, film=film: make(film, told), at=at)
        assert found(film) in STATES[finished : finished + 2], (at, finished)
        check_no_trace(film)
        if not crashed:
            break
    assert finished == len(STATES) - 1
    # Nine files with five operations each, the folders, the lock, and the removal of all of it.
    assert at > 80


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_operation_of_a_resumed_run_leaves_the_newest_state_or_the_one_before(
    tmp_path: Path, step: int
) -> None:
    (tmp_path / "before").mkdir()
    keep(tmp_path / "before" / "story.mp4", 3)
    begun = 1 + 3

    def go_on(film: Path, told: Callable[[], None]) -> None:
        with opened(film, resume=True, versions=VERSIONS | {"torch": "2.12.0"}) as journal:
            for action, _ in ACTIONS[3:]:
                action(journal)
                told()
            journal.finish()
            told()

    for at, film in films(tmp_path / "after", like=tmp_path / "before", step=step):
        crashed, finished = run_until_crash(lambda told, film=film: go_on(film, told), at=at)
        assert found(film) in STATES[begun + finished : begun + finished + 2], (at, finished)
        check_no_trace(film)
        if not crashed:
            break
    assert begun + finished == len(STATES) - 1


def test_a_crash_while_damaged_files_are_removed_never_brings_back_what_came_after_them(
    tmp_path: Path,
) -> None:
    (tmp_path / "before").mkdir()
    keep(tmp_path / "before" / "story.mp4", 7)
    journal = journal_folder_of(tmp_path / "before" / "story.mp4")
    (journal / "window-000.safetensors").write_bytes(b"damaged")
    for at, film in films(tmp_path / "after", like=tmp_path / "before"):
        crashed, _ = run_until_crash(lambda _, film=film: resumed(film), at=at)
        with opened(film, resume=True) as again:
            again.keep_window(finished(0))
            assert [window.index for window in again.resume_point().windows] == [0]
        assert len(found(film).windows) == 1, at
        if not crashed:
            break
    assert at > 10


def test_a_crash_while_a_run_is_discarded_leaves_the_old_one_or_none_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    keep(tmp_path / "before" / "story.mp4", 7)
    seen = set()
    for at, film in films(tmp_path / "after", like=tmp_path / "before"):
        crashed, _ = run_until_crash(lambda _, film=film: keep(film, 0, request=OTHER, force=True), at=at)
        request = read_request(film)
        seen.add(str(request))
        if request == OTHER:
            assert found(film, request=OTHER) == EMPTY, at
        else:
            assert found(film) == (NOTHING if request is None else ACTIONS[-1][1]), at
        check_no_trace(film)
        if not crashed:
            break
    assert len(seen) == 3


@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES], ids=["full", "broken", "forbidden"])
def test_a_disk_that_refuses_any_operation_is_an_output_error_and_loses_nothing(
    tmp_path: Path, code: int, stays: bool
) -> None:
    messages = []
    for at, film in films(tmp_path):
        disk = FaultyDisk(at=at, fault=refuse(code), stays=stays)
        told, finished = RecordingReporter(), []
        with pytest.MonkeyPatch.context() as patch:
            disk.install(patch)
            try:
                make(film, lambda done=finished: done.append(True), reporter=told)
            except OutputError as error:
                messages.append(str(error))
        allowed = STATES[len(finished) : len(finished) + 2]
        if len(finished) <= 1:
            # Before its first step, a run that fails takes its journal with it.
            allowed.append(NOTHING)
        if told.warnings:
            assert "the film is complete, but its journal could not be removed" in told.warnings[0]
            allowed.append(ACTIONS[-1][1])
        assert found(film) in allowed, (at, len(finished), told.warnings)
        check_no_trace(film)
        if not disk.has_failed:
            break
    assert len(messages) > 50
    assert all(os.strerror(code) in message for message in messages)
