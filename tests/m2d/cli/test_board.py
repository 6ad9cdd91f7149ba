"""`m2d board`: the page's path to stdout, everything else to stderr."""

from __future__ import annotations

import json
from pathlib import Path

from tests.m2d.cli.conftest import Run
from tests.m2d.video.grown_films import GENERATE, grown, write_grown


def test_the_page_s_path_goes_to_stdout(m2d: Run, folder: Path) -> None:
    write_grown(folder / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))
    result = m2d("board", "walk.mp4")
    assert (result.exit_code, result.stdout) == (0, "walk.html\n")
    assert result.stderr == ""
    assert (folder / "walk.html").read_text().startswith("<!DOCTYPE html>")

    result = m2d("board", "walk.mp4")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: walk.html: exists already")
    assert m2d("board", "walk.mp4", "--force").exit_code == 0
    assert "read films" in m2d("board", ".").stderr
    assert m2d("board", ".", "--force", "--quiet").stderr == ""


def test_json_tells_what_is_on_the_page_and_what_is_not(m2d: Run, folder: Path) -> None:
    write_grown(folder / "walk.mp4", *grown((GENERATE,), (0, 0, 0)))
    (folder / "[b].mp4").write_bytes(b"hello")
    result = m2d("board", ".", "--out", "pages.html", "--json")
    told = json.loads(result.stdout)
    assert (told["page"], told["films"]) == ("pages.html", ["walk.mp4"])
    assert told["size_bytes"] == (folder / "pages.html").stat().st_size
    (missing,) = told["not_shown"]
    assert missing["name"] == "[b].mp4"
    assert f"warning: [b].mp4: {missing['reason']}" in result.stderr


def test_what_is_no_film_is_refused(m2d: Run, folder: Path) -> None:
    (folder / "text.mp4").write_bytes(b"hello")
    result = m2d("board", "text.mp4")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: text.mp4: is not a film")
    assert not (folder / "text.html").exists()
