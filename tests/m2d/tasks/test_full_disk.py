"""A disk that is really full: what was there is intact, and the run goes on once there is room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decoded_film import read_film
from m2d.errors import OutputError
from m2d.film.journal_folder import journal_folder_of
from m2d.film.make import FilmResult
from m2d.progress import SilentReporter, StageProgress
from tests.m2d.small_disk import fill, small_disk
from tests.m2d.tasks.studio import Studio, contents, open_studio

DISK_BYTES = 8 << 20
ASKED = ("a fish", "a bird")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def two(studio: Studio) -> Path:
    return studio.generate(2, name="two").film


@pytest.fixture(scope="module")
def straight(studio: Studio, two: Path) -> FilmResult:
    """The run on a disk with room."""
    return studio.extend(two, *ASKED, out=studio.path("straight"))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


class Filling(SilentReporter):
    """Fills the disk to its last byte when a stage begins, as another program might, but for some bytes."""

    def __init__(self, filler: Path, stage: str, *, left_bytes: int) -> None:
        self._filler, self._stage, self._left_bytes = filler, stage, left_bytes

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        if name == self._stage and not self._filler.exists():
            fill(self._filler, left_bytes=self._left_bytes)
        with super().stage(name, total=total) as progress:
            yield progress


MOMENTS = [("denoise", 0), ("denoise", 4 << 12), ("decode", 0), ("write", 4 << 12), ("write", 12 << 12)]
"""Stages with how many bytes, in whole pages, are left then: the more, the later a write fails."""


@pytest.mark.parametrize(("stage", "left_bytes"), MOMENTS)
@pytest.mark.parametrize("in_place", [False, True], ids=["new file", "in place"])
def test_a_disk_that_fills_up_leaves_the_old_film_and_a_run_to_go_on_with(
    stage: str,
    left_bytes: int,
    in_place: bool,
    studio: Studio,
    two: Path,
    straight: FilmResult,
    disk: Path,
) -> None:
    film = disk / "film.mp4"
    film.write_bytes(two.read_bytes())
    film.with_suffix(".m2d").mkdir()
    for name, data in contents(two.with_suffix(".m2d")).items():
        (film.with_suffix(".m2d") / name).write_bytes(data)
    before = contents(disk)
    out, filler = film if in_place else disk / "longer.mp4", disk / "filler"
    reporter = Filling(filler, stage, left_bytes=left_bytes)
    with pytest.raises(OutputError, match="No space left on device") as raised:
        studio.extend(film, *ASKED, out=out, force=in_place, reporter=reporter)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == 1
    filler.unlink()
    kept = contents(disk)
    assert {name: kept[name] for name in before} == before
    assert in_place or not out.exists()
    has_run = journal_folder_of(out).exists()
    again: dict[str, Any] = {"resume": True} if has_run else {"force": in_place}
    result = studio.extend(film, *ASKED, out=out, **again)
    assert result.film.read_bytes() == straight.film.read_bytes()
    assert len(read_film(out).frames_PHWC) == straight.provenance.num_frames
    assert [name for name in os.listdir(disk) if name.startswith(".")] == []
