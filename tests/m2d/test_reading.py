from __future__ import annotations

import os
from pathlib import Path

import pytest

from m2d.reading import UnreadableFile, check_regular, open_regular, read_bytes, read_text
from tests.m2d.odd_files import ODD_FILES, put


@pytest.mark.parametrize("kind", ODD_FILES)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    put(kind, path)
    for read in (lambda: read_bytes(path, limit_bytes=9), lambda: check_regular(path)):
        with pytest.raises(
            UnreadableFile, match=f"it is {kind.removeprefix('a link to ')}, not a regular file"
        ):
            read()


def test_a_file_that_becomes_a_pipe_before_it_is_opened_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"text")
    before = path.stat()
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr("m2d.reading.Path.stat", lambda *_, **__: before)
    with pytest.raises(UnreadableFile, match="it is a pipe"):
        open_regular(path, limit_bytes=None)


def test_a_file_that_is_a_hole_is_not_read(tmp_path: Path) -> None:
    """Its length alone would fill the memory; a large file that was written is read."""
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(b"head")
        file.truncate(1 << 40)
    with pytest.raises(UnreadableFile, match=r"only 4,096 of its 1,099,511,627,776 bytes were ever written"):
        open_regular(path, limit_bytes=None)
    with path.open("wb") as file:
        file.truncate(65 << 20)
        file.seek(0)
        file.write(bytes(9 << 20))
    with open_regular(path, limit_bytes=None) as file:
        assert file.tell() == 0


def test_a_file_over_its_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(UnreadableFile, match="4,398,046,511,104 bytes; at most 100 are allowed"):
        read_bytes(path, limit_bytes=100)


def test_a_file_without_a_size_is_bounded_too() -> None:
    with pytest.raises(UnreadableFile, match="at most 5 are allowed"):
        read_bytes(Path("/proc/self/status"), limit_bytes=5)


def test_links_are_followed_only_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    link = tmp_path / "link"
    link.symlink_to("file")
    assert read_text(link, limit_bytes=4) == "text"
    with pytest.raises(UnreadableFile, match="it is a link"):
        read_bytes(link, limit_bytes=4, follow=False)


def test_a_name_that_no_file_can_have_is_an_operating_system_error() -> None:
    for name in ("a\0b", "x" * 300):
        with pytest.raises(OSError, match=r"NUL|too long"):
            read_bytes(Path(name), limit_bytes=9)


def test_a_pointer_of_git_lfs_is_named_and_any_other_small_file_is_read_from_its_start(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    with pytest.raises(UnreadableFile, match=r"a Git LFS pointer, .*; run `git lfs pull` in its folder"):
        open_regular(path, limit_bytes=None)
    path.write_text("version 2 " * 10)
    assert read_text(path, limit_bytes=1000) == "version 2 " * 10
