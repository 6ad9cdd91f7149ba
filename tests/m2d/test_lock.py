"""One process at a time holds a folder, whatever happened to those before it."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from m2d import disk, lock
from m2d.errors import OutputBusy, OutputError, Remedy
from m2d.lock import hold

NUM_RACERS = 4
NUM_ROUNDS = 50


def forked(work: Callable[[], None]) -> int:
    """Run `work` in a child process and return its pid; it ends with 0 unless `work` raises."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_held_folder_is_refused_with_its_holder_and_a_remedy(tmp_path: Path) -> None:
    owner = rf"process {os.getpid()} on {re.escape(socket.gethostname())}"
    message = rf"run: {owner} is training there$"
    with (
        hold(tmp_path / "run", what="training there"),
        pytest.raises(OutputBusy, match=message, check=lambda error: error.remedy is Remedy.WAIT) as busy,
        hold(tmp_path / "run", what="training there"),
    ):
        raise AssertionError("two writers")
    assert busy.value.exit_code == 3


def test_a_folder_that_stayed_empty_goes_and_one_in_use_stays_without_a_lock_file(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "film.m2d"
    with hold(folder, what="making it"):
        assert [path.name for path in folder.iterdir()] == [lock.FILE]
    assert not folder.exists()
    with hold(folder, what="making it"):
        (folder / "run.json").write_bytes(b"{}")
    assert [path.name for path in folder.iterdir()] == ["run.json"]


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    def die() -> None:
        with hold(tmp_path / "run", what="training there"):
            os.kill(os.getpid(), signal.SIGKILL)

    assert exit_code(forked(die)) == -signal.SIGKILL
    assert (tmp_path / "run" / lock.FILE).exists()
    with hold(tmp_path / "run", what="training there"):
        assert (tmp_path / "run" / lock.FILE).read_text().startswith(f"{os.getpid()} ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "owner"),
    [(b"12", "process 12 is"), (b"12 a b\n", "another process is"), (b"\xff\x1b[31m", "another process is")],
)
def test_an_owner_that_is_not_told_properly_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, owner: str
) -> None:
    monkeypatch.setattr(lock, "LONGEST_NAMELESS_S", 0.0)
    with hold(tmp_path, what="training there"):
        (tmp_path / lock.FILE).write_bytes(text)
        with (
            pytest.raises(OutputBusy, match=f"{owner} training there"),
            hold(tmp_path, what="training there"),
        ):
            pass


@pytest.mark.parametrize("is_of_a_dead_one", [False, True], ids=["no name", "a dead one's name"])
def test_a_holder_that_is_not_yet_named_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_of_a_dead_one: bool
) -> None:
    real_read, real_write = lock._read, lock._write
    dead = forked(lambda: None)
    exit_code(dead)
    (is_locked, locks), (was_looked_at, looks) = os.pipe(), os.pipe()
    seen: list[str] = []

    def write_late(descriptor: int, data: bytes) -> None:
        os.write(locks, b".")
        os.read(was_looked_at, 1)
        real_write(descriptor, data)

    def hold_until_killed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock, "_write", write_late)
            with hold(tmp_path, what="training there"):
                signal.pause()

    def read(descriptor: int) -> str:
        seen.append(real_read(descriptor))
        if len(seen) == 1:
            os.write(looks, b".")
        return seen[-1]

    pid = forked(hold_until_killed)
    os.read(is_locked, 1)
    # Or it has not been emptied yet.
    before = f"{dead} {socket.gethostname()}\n" if is_of_a_dead_one else ""
    (tmp_path / lock.FILE).write_text(before)
    monkeypatch.setattr(lock, "_read", read)
    with (
        pytest.raises(OutputBusy, match=f"process {pid} on .* is training there"),
        hold(tmp_path, what="training there"),
    ):
        pass
    assert seen[0] == before
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL


def test_a_linked_lock_file_is_refused_and_its_target_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "diary").write_bytes(b"dear")
    (tmp_path / lock.FILE).symlink_to(tmp_path / "diary")
    with (
        pytest.raises(
            OutputError,
            match=r"\.lock: could not be locked: ",
            check=lambda error: error.remedy is Remedy.CHOOSE_OUTPUT,
        ),
        hold(tmp_path, what="training there"),
    ):
        pass
    assert (tmp_path / "diary").read_bytes() == b"dear"


def test_processes_that_race_for_a_folder_get_it_one_at_a_time(tmp_path: Path) -> None:
    """The folder and its lock file come and go at every turn, which is where naive locks let two in."""
    folder, mark = tmp_path / "film.m2d", tmp_path / "somebody is in"

    def race() -> None:
        turns = 0
        while turns < NUM_ROUNDS:
            try:
                with hold(folder, what="making it"):
                    mark.touch(exist_ok=False)
                    mark.unlink()
                    turns += 1
            except OutputBusy:
                os.sched_yield()

    assert [exit_code(pid) for pid in [forked(race) for _ in range(NUM_RACERS)]] == [0] * NUM_RACERS
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_outrun_again_and_again_goes_on_trying(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, num_outrun = lock._locked, 5 * lock.LEAST_TRIES
    tries: list[Path] = []

    def outrun(path: Path, *, what: str) -> int:
        tries.append(path)
        if len(tries) <= num_outrun:
            raise FileNotFoundError(path)
        return real(path, what=what)

    monkeypatch.setattr(lock, "_locked", outrun)
    # Whatever this machine is busy with.
    monkeypatch.setattr(lock, "LEAST_TRYING_S", 3600.0)
    with hold(tmp_path / "run", what="training there"):
        assert len(tries) == num_outrun + 1


def test_a_disk_whose_files_have_no_identity_is_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "LEAST_TRYING_S", 0.0)
    monkeypatch.setattr(os.path, "samestat", lambda *_: False)
    with (
        pytest.raises(
            OutputError, match=rf"\.lock: was replaced {lock.LEAST_TRIES} times while it was being"
        ),
        hold(tmp_path / "run", what="training there"),
    ):
        raise AssertionError("held without a lock")


def test_a_lock_file_opened_before_its_holder_removed_it_is_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One opens the file; the holder removes it and lets go; another takes over; then the first locks."""
    folder = tmp_path / "film.m2d"
    opened, is_held_anew = threading.Event(), threading.Event()
    met: list[str] = []
    real_open = lock._open

    def open_and_wait(path: Path) -> int:
        descriptor = real_open(path)
        if threading.current_thread() is late and not opened.is_set():
            opened.set()
            is_held_anew.wait(timeout=60)
        return descriptor

    def hold_late() -> None:
        try:
            with hold(folder, what="making it"):
                met.append("nobody")
        except OutputBusy:
            met.append("the holder")

    monkeypatch.setattr(lock, "_open", open_and_wait)
    late = threading.Thread(target=hold_late)
    with hold(folder, what="making it"):
        late.start()
        assert opened.wait(timeout=60)
    with hold(folder, what="making it"):
        is_held_anew.set()
        late.join(timeout=60)
    assert met == ["the holder"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize(("module", "operation"), [(lock, "_open"), (lock, "_write"), (disk, "mkdir")])
def test_a_disk_that_refuses_the_lock_is_an_error_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, operation: str, code: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(module, operation, refuse)
        with (
            pytest.raises(OutputError, match=os.strerror(code)),
            hold(tmp_path / "run", what="training there"),
        ):
            raise AssertionError("held without a lock")
    with hold(tmp_path / "run", what="training there"):
        pass
    assert not (tmp_path / "run").exists()


def test_a_lock_file_that_cannot_be_removed_does_not_undo_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "unlink", refuse)
        with hold(tmp_path, what="training there"):
            pass
    with hold(tmp_path, what="training there"):
        pass
