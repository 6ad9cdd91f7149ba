"""Boards of films and folders: what is on them, what is not and why, and where they go."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest

from m2d.errors import InputError, OutputError
from m2d.progress import SilentReporter
from m2d.tasks import board
from m2d.tasks.board import BoardResult, draw_board
from m2d.video.run_folder import RECORD, run_folder_of
from m2d.video.write import write_film
from tests.m2d.video.board.documents import read_page
from tests.m2d.video.grown_films import GENERATE, grown, write_grown


class Warnings(SilentReporter):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warn(self, message: str) -> None:
        self.heard.append(message)


def draw(source: Path, *, out: Path | None = None, force: bool = False) -> BoardResult:
    return draw_board(source, out=out, reporter=SilentReporter(), force=force)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write_grown(tmp_path / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))


def test_the_page_goes_beside_the_film_or_into_the_folder(film: Path) -> None:
    assert draw(film).page == film.with_suffix(".html")
    result = draw(film.parent)
    assert result.page == film.parent / "board.html"
    assert result.size_bytes == result.page.stat().st_size


def test_an_existing_page_is_replaced_only_by_force(film: Path) -> None:
    page = film.with_suffix(".html")
    page.write_text("mine")
    with pytest.raises(OutputError, match=r"walk\.html: exists already"):
        draw(film)
    assert page.read_text() == "mine"
    assert draw(film, force=True).size_bytes == page.stat().st_size


@pytest.mark.parametrize("name", ["board.txt", "board", "walk.mp4"])
def test_a_page_is_never_written_over_something_else(name: str, film: Path) -> None:
    kept = film.read_bytes()
    with pytest.raises(InputError, match=rf"^out: '.*{re.escape(name)}' does not end in \.html"):
        draw(film, out=film.parent / name, force=True)
    assert film.read_bytes() == kept


def test_a_small_film_is_in_the_page_and_a_large_one_beside_it(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "data:video/mp4;base64," in draw(film, force=True).page.read_text()
    monkeypatch.setattr(board, "LARGEST_EMBEDDED_BYTES", film.stat().st_size - 1)
    page = read_page(draw(film, force=True).page.read_text())
    (video,) = page.all("video")
    assert video.attributes["src"] == "./walk.mp4"
    assert "The film is not part of this page" in page.words()


@pytest.mark.parametrize(
    ("film", "page", "link"),
    [
        ("walk.mp4", "index.html", "./walk.mp4"),
        ("films/a b#c.mp4", "index.html", "./films/a%20b%23c.mp4"),
        ("films/javascript:hit().mp4", "films/index.html", "./javascript%3Ahit%28%29.mp4"),
        # Where it lies would be told by the way there.
        ("films/walk.mp4", "pages/index.html", "./walk.mp4"),
    ],
)
def test_links_tell_of_no_folder_but_those_below_the_page(
    film: str, page: str, link: str, tmp_path: Path
) -> None:
    for name in ("films", "pages"):
        (tmp_path / name).mkdir()
    path = write_grown(tmp_path / film, *grown((GENERATE,), (0, 0, 0)))
    text = draw(path.parent, out=tmp_path / page).page.read_text()
    assert [found.attributes["href"] for found in read_page(text).all("a")] == ["#film-1", link]
    assert str(tmp_path) not in text


def test_a_folder_s_films_come_newest_first_and_what_is_none_is_named_with_the_reason(
    film: Path, tmp_path: Path
) -> None:
    newer = write_grown(tmp_path / "newer.mp4", *grown((GENERATE,), (0, 0, 0), title="Newer"))
    os.utime(film, (1_000, 1_000))
    (tmp_path / "cut.mp4").write_bytes(newer.read_bytes()[:2000])
    (tmp_path / "playlist.mp4").write_bytes(b"ffconcat version 1.0\nfile walk.mp4\n")
    (tmp_path / "notes.txt").write_text("no film")
    (tmp_path / ".newer.mp4.1.part").write_bytes(b"unfinished")
    (tmp_path / "folder.mp4").mkdir()
    frames_PHWC = np.zeros((5, 32, 32, 3), np.uint8)
    arguments = {"fps": 8, "upscale": 1, "title": "t", "provenance": None, "force": False}
    write_film(tmp_path / "theirs.mp4", [frames_PHWC], scene_prompts=["p"], **arguments)

    warnings = Warnings()
    result = draw_board(tmp_path, reporter=warnings)
    assert result.films == ("newer.mp4", "walk.mp4")
    reasons = {file.name: file.reason for file in result.unread}
    assert set(reasons) == {"cut.mp4", "playlist.mp4", "theirs.mp4"}
    assert reasons["cut.mp4"].startswith("is cut off")
    assert reasons["theirs.mp4"].startswith("was not made by m2d")
    assert sorted(warnings.heard) == sorted(f"{name}: {reason}" for name, reason in reasons.items())

    text = result.page.read_text()
    words = read_page(text).words()
    assert words.index("Newer") < words.index("A long walk")
    assert all(reason in words for reason in reasons.values())
    assert "1970-01-01" in words
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", ["missing.mp4", "text.mp4", "theirs.mp4"])
def test_a_single_film_that_cannot_be_shown_is_an_error_and_leaves_no_page(name: str, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_bytes(b"hello")
    frames_PHWC = np.zeros((5, 32, 32, 3), np.uint8)
    arguments = {"fps": 8, "upscale": 1, "title": "t", "provenance": None, "force": False}
    write_film(tmp_path / "theirs.mp4", [frames_PHWC], scene_prompts=["p"], **arguments)
    with pytest.raises(InputError, match=rf"{name}: (does not exist|is not a film|was not made by m2d)"):
        draw(tmp_path / name)
    assert list(tmp_path.glob("*.html")) == []


def test_a_folder_without_films_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no film that m2d made"):
        draw(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_wrong_with_the_run_folder_is_told_without_its_place(film: Path) -> None:
    (run_folder_of(film) / RECORD).write_text("{")
    text = draw(film).page.read_text()
    words = read_page(text).words()
    assert "The run folder is unusable: walk.m2d/run.json: is not JSON" in words
    assert "Not recorded." in words
    assert str(film.parent) not in text


def test_a_film_of_one_scene_and_one_frame_has_a_page(tmp_path: Path) -> None:
    provenance, shown = grown((("generate", [((0,), (0,))]),), (0,))
    page = read_page(draw(write_grown(tmp_path / "one.mp4", provenance, shown)).page.read_text())
    assert len(page.all("li", "card")) == 1
    assert "1 scene" in page.words()


def test_a_film_of_very_many_scenes_is_refused(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "MOST_SCENES", 2)
    with pytest.raises(InputError, match="3 scenes of 1 runs; a board shows at most 2"):
        draw(film)


def test_a_film_with_a_time_outside_the_calendar_has_no_day(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = film.stat()
    monkeypatch.setattr(type(film), "stat", lambda *_, **__: found)
    assert board._day_of(film).startswith("20")
    beyond = os.stat_result([*found[:7], 10**15, 10**15, 10**15])
    monkeypatch.setattr(type(film), "stat", lambda *_, **__: beyond)
    assert board._day_of(film) == ""
