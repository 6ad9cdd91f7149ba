"""The report shows counts, similarities and groups that play, in a browser without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from m2d.errors import DatasetError
from m2d.tasks.data import show_group
from tests.m2d.curation.conftest import build_set
from tests.m2d.video.board.chromium import Chromium, find_chromium

PROGRAM = find_chromium()


def test_the_page_holds_the_accounting_and_all_groups(straight: Path) -> None:
    text = (straight / "report.html").read_text("ascii")
    groups = (straight / "stories.jsonl").read_text().splitlines()
    assert text.count('<article id="group-') >= len(groups) > 0
    assert text.count('<th scope="row">') == 8
    assert str(straight) not in text


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
def test_a_group_plays_without_a_network(straight: Path, tmp_path: Path) -> None:
    assert PROGRAM is not None
    page = straight / "report.html"
    with Chromium(PROGRAM, tmp_path / "profile") as browser:
        browser.open(page)
        assert browser.requests() == [page.as_uri()]
        assert browser.problems() == []
        browser.evaluate("document.querySelector('.play').click()")
        browser.wait_for("document.querySelector('.strip').dataset.picture === '2'")
        size = browser.evaluate("document.querySelector('.strip').getBoundingClientRect().height")
        assert size > 20
        for width in (320, 1200):
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_captions_cannot_become_markup(straight: Path, films: Path, tmp_path: Path) -> None:
    folder = tmp_path / "films"
    shutil.copytree(films, folder)
    sidecar = next(folder.glob("*.captions.json"))
    sidecar.write_text(sidecar.read_text().replace("Actor1", "</script><script>hit()</script>"))
    shutil.copytree(straight, tmp_path / "set")
    build_set(tmp_path / "set", folder)
    assert "<script>hit()" not in (tmp_path / "set" / "report.html").read_text()


def test_a_single_group_is_shown_and_an_unknown_one_named(straight: Path) -> None:
    group = show_group(straight, 0)
    assert group.number == 0
    assert len(group.shots) >= 2
    with pytest.raises(DatasetError, match="group 99: there are"):
        show_group(straight, 99)
