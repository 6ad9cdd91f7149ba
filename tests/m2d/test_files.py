"""Files appear complete or not at all, and leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from m2d import disk, files, folders
from m2d.errors import OutputError, OutputRefused, Remedy
from m2d.folders import removed_on_error, with_home
from tests.m2d.faults import FaultyDisk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def ended_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_published_file_has_the_written_bytes_and_no_temporary_name_stays(tmp_path: Path) -> None:
    with files.publish(tmp_path / "film.mp4", force=False) as part:
        assert part.parent == tmp_path
        assert part.name == f".film.mp4.{os.getpid()}.part"
        files.write_part(part, b"frames")
        assert not (tmp_path / "film.mp4").exists()
    assert (tmp_path / "film.mp4").read_bytes() == b"frames"
    assert names(tmp_path) == ["film.mp4"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, SystemExit, ValueError, OSError])
def test_a_failing_block_keeps_the_old_file_and_leaves_no_new_one(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def fail_halfway() -> None:
        with files.publish(path, force=True) as part:
            files.write_part(part, b"half of the ne")
            raise failure

    with pytest.raises(failure):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["film.mp4"]


def test_existing_output_is_refused_without_force_and_replaced_with_it(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")
    with pytest.raises(
        OutputError, match=r"film\.mp4: exists already", check=lambda error: error.remedy is Remedy.OVERWRITE
    ):
        files.check_writable(path, force=False)
    files.write_bytes(path, b"new", force=True)
    assert path.read_bytes() == b"new"


def test_output_that_appears_during_the_work_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"

    def publish_too_late() -> None:
        with files.publish(path, force=False) as part:
            files.write_part(part, b"mine")
            path.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exists already"):
        publish_too_late()
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["film.mp4"]


def test_dangling_link_counts_as_existing_and_its_target_is_never_written(tmp_path: Path) -> None:
    link, target = tmp_path / "film.mp4", tmp_path / "elsewhere.mp4"
    link.symlink_to(target)
    with pytest.raises(OutputError, match="exists already"):
        files.check_writable(link, force=False)
    files.write_bytes(link, b"new", force=True)
    assert not target.exists()
    assert link.read_bytes() == b"new"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .*/nowhere does not exist; create it"):
        files.check_writable(tmp_path / "nowhere" / "film.mp4", force=False)


def test_a_folder_of_that_name_is_refused_even_with_force(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="not a file but a folder or device"):
        files.check_writable(tmp_path, force=True)


def test_over_long_name_and_null_byte_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"could not be written: .*; choose a shorter name"):
        files.check_writable(tmp_path / ("x" * 300), force=False)
    with pytest.raises(OutputError, match="is not a file name"):
        files.check_writable(tmp_path / "a\0b.mp4", force=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot be written to"):
        files.check_writable(tmp_path / "film.mp4", force=False)
    tmp_path.chmod(0o700)


def test_longest_possible_name_can_be_published(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 125 + ".mp4")
    files.write_bytes(path, b"frames")
    assert names(tmp_path) == [path.name]


def test_next_publish_removes_what_a_killed_process_left_for_the_same_name(tmp_path: Path) -> None:
    mine = tmp_path / f".film.mp4.{ended_pid()}.part"
    running = tmp_path / f".film.mp4.{os.getppid()}.part"
    other = tmp_path / f".other.mp4.{ended_pid()}.part"
    for path in (mine, running, other):
        path.write_bytes(b"half")
    files.write_bytes(tmp_path / "film.mp4", b"frames")
    assert names(tmp_path) == sorted([running.name, other.name, "film.mp4"])
    assert files.remove_strays(tmp_path) == [other]


def test_strays_are_only_files_named_like_ours(tmp_path: Path) -> None:
    pid = ended_pid()
    (tmp_path / f"film.mp4.{pid}.part").write_bytes(b"")
    (tmp_path / ".film.mp4.part").write_bytes(b"")
    (tmp_path / f".folder.{pid}.part").mkdir()
    (tmp_path / f".link.{pid}.part").symlink_to(tmp_path / ".film.mp4.part")
    assert files.remove_strays(tmp_path) == []
    assert len(names(tmp_path)) == 4


def test_the_one_writer_removes_strays_whoever_has_their_number_now(tmp_path: Path) -> None:
    stray = tmp_path / f".film.mp4.{os.getppid()}.part"
    stray.write_bytes(b"half")
    assert files.remove_strays(tmp_path) == []
    assert files.remove_strays(tmp_path, name="film.mp4", is_held=True) == [stray]
    assert names(tmp_path) == []


def test_strays_of_a_folder_that_is_none_are_an_error_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"nowhere: could not be written: No such file"):
        files.remove_strays(tmp_path / "nowhere")


def test_folders_are_made_with_those_above_and_removed_when_empty(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "film.m2d"
    for _ in range(2):
        folders.make_folder(folder)
        assert folder.is_dir()
    (folder / "mine").write_bytes(b"")
    folders.remove_empty_folder(folder)
    assert names(folder) == ["mine"]
    for _ in range(2):
        files.remove_file(folder / "mine")
        folders.remove_empty_folder(folder)
        assert not folder.exists()


@pytest.mark.parametrize("is_gone_again", [False, True], ids=["stays", "is gone again"])
def test_a_folder_that_another_process_makes_first_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gone_again: bool
) -> None:
    folder, real, outrun = tmp_path / "film.m2d", disk.mkdir, [True]

    def outrun_once(path: Path) -> None:
        if not outrun:
            return real(path)
        outrun.clear()
        if not is_gone_again:
            real(path)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))

    monkeypatch.setattr(disk, "mkdir", outrun_once)
    folders.make_folder(folder)
    assert folder.is_dir()


def test_a_temporary_folder_is_removed_although_no_file_can_be_opened(tmp_path: Path) -> None:
    part, opened = tmp_path / ".model.1.part", []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    def fill_and_open_all() -> None:
        with removed_on_error(part):
            (part / "below").mkdir()
            (part / "below" / "file").write_bytes(b"x")
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))

    try:
        with pytest.raises(OSError, match="Too many open files"):
            fill_and_open_all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path) -> None:
    (tmp_path / "film.m2d").write_bytes(b"mine")
    for folder in (tmp_path / "film.m2d", tmp_path / "film.m2d" / "journal"):
        with pytest.raises(
            OutputError, match=r"film\.m2d: a folder is needed there, but a file has its name"
        ):
            folders.make_folder(folder)
    assert (tmp_path / "film.m2d").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("operation", "change", "complaint"),
    [
        ("mkdir", lambda folder: folders.make_folder(folder / "new"), "new: could not be written"),
        ("rmdir", lambda folder: folders.remove_empty_folder(folder / "old"), "old: could not be removed"),
        ("unlink", lambda folder: files.remove_file(folder / "file"), "file: could not be removed"),
    ],
)
def test_a_disk_that_refuses_folders_or_removal_gives_a_clear_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    change: Callable[[Path], None],
    complaint: str,
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "file").write_bytes(b"")

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, operation, refuse)
    with pytest.raises(OutputError, match=rf"{complaint}: Input/output error; check the disk"):
        change(tmp_path)
    assert names(tmp_path) == ["file", "old"]


@pytest.mark.parametrize(
    ("change", "complaint", "left"),
    [
        (
            lambda folder: files.write_bytes(folder / "new", b"x"),
            "new: .* synced, although it is there",
            "new",
        ),
        (lambda folder: folders.make_folder(folder / "new"), "new: .* synced, although it is there", "new"),
        (lambda folder: files.remove_file(folder / "file"), "file: .* synced, although it is removed", ""),
    ],
    ids=["write", "make", "remove"],
)
def test_what_was_done_but_not_synced_is_not_called_undone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    complaint: str,
    left: str,
) -> None:
    (tmp_path / "file").write_bytes(b"")

    def refuse(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(disk, "sync_folder", refuse)
    with pytest.raises(OutputError, match=rf"{complaint}: Input/output error; check the disk"):
        change(tmp_path)
    assert names(tmp_path) == (sorted(["file", left]) if left else [])


def test_too_little_space_is_told_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_000_000))
    folders.check_free_space(tmp_path, 3_000_000)
    with pytest.raises(OutputRefused, match=r"3\.0 MB are free, 1,234\.6 MB are needed; free some space"):
        folders.check_free_space(tmp_path, 1_234_567_890)


def test_json_is_sorted_ascii_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_json(path, {"b": "\u2603", "a": [1, 2.5]})
    assert path.read_bytes().isascii()
    assert list(json.loads(path.read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text())["b"] == "\u2603"


@pytest.mark.parametrize("operation", ["open_file", "write_all", "fsync", "replace"])
def test_a_disk_that_refuses_any_operation_leaves_the_old_file_and_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(disk, operation, refuse)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["film.mp4"]


def test_a_file_is_synced_before_it_gets_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = FaultyDisk()
    disk.install(monkeypatch)
    files.write_bytes(tmp_path / "film.mp4", b"frames")
    writing, named = disk.done[: disk.done.index("replace")], disk.done[disk.done.index("replace") :]
    assert writing == ["open_file", "write_all", "open_file", "fsync"]
    assert named == ["replace", "open_file", "fsync", "unlink"]


def test_nameless_file_is_never_seen_in_its_folder(tmp_path: Path) -> None:
    with files.nameless_file(tmp_path) as file:
        file.write(b"scratch")
        file.seek(0)
        assert file.read() == b"scratch"
        assert names(tmp_path) == []


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "weights").write_bytes(data)
    assert files.sha256_file(tmp_path / "weights") == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    ("code", "exit_code", "advice"),
    [
        (errno.ENOSPC, 1, "free some space"),
        (errno.EMFILE, 1, "ulimit -n"),
        (errno.EFBIG, 1, "ulimit -f"),
        (errno.EACCES, 2, "a folder you may write to"),
        (errno.ENAMETOOLONG, 2, "choose a shorter name"),
    ],
)
def test_the_exit_code_says_whether_the_machine_or_the_path_is_at_fault(
    code: int, exit_code: int, advice: str
) -> None:
    with pytest.raises(OutputError, match=advice) as caught, disk.output_errors(Path("film.mp4")):
        raise OSError(code, "refused")
    assert caught.value.exit_code == exit_code


@pytest.mark.parametrize("name", ["~no-such-user/x", "~.gif", "~\0", "plain", "a/~"])
def test_a_home_that_is_unknown_leaves_the_path(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(with_home(name)) == name
    monkeypatch.setenv("HOME", "/somewhere")
    assert with_home("~/x") == Path("/somewhere/x")
