"""Files appear complete or not at all, and leave nothing behind."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2d import files
from m2d.errors import OutputError


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
    with pytest.raises(OutputError, match=r"film\.mp4: exists already.*--force"):
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


def test_json_is_sorted_ascii_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    files.write_json(path, {"b": "\u2603", "a": [1, 2.5]})
    assert path.read_bytes().isascii()
    assert list(json.loads(path.read_text())) == ["a", "b"]
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text())["b"] == "\u2603"


@pytest.mark.parametrize("operation", ["_open", "_write", "_fsync", "_replace"])
def test_a_disk_that_refuses_any_operation_leaves_the_old_file_and_a_clear_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"old")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, operation, refuse)
    with pytest.raises(OutputError, match="No space left on device; free some space"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["film.mp4"]


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
