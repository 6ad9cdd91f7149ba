"""Boards to look at: a grown film's page, one of a hostile film, and an index of all of them."""

from __future__ import annotations

from pathlib import Path

from m2d.joins import Join
from m2d.progress import SilentReporter
from m2d.tasks.board import draw_board
from tests.m2d.video.grown_films import GENERATE, grown, write_grown

HOSTILE = {
    0: "<img src=x onerror=hit()> </script><script>hit()</script> {{ 7 * 7 }} \x1b[31m\u202egnirts",
    1: "\"' onmouseover=\"hit()\" style='position:fixed' " + "W" * 300,
    2: "]]> --> </textarea></style><style>*{display:none}</style> javascript:hit() \ud800",
}
HOSTILE_TITLE = "</title><script>hit()</script>"


def write_films(folder: Path) -> tuple[Path, Path]:
    """A film that was extended and re-rolled, and one whose every text is an attack."""
    joins = {3: Join(kind="crossfade", num_frames=2), 4: Join(kind="continue")}
    walk = write_grown(folder / "walk.mp4", *grown(joins=joins))
    film = grown((GENERATE,), (0, 0, 0), prompts=HOSTILE, title=HOSTILE_TITLE)
    return walk, write_grown(folder / "a'b\"<i>&amp;.mp4", *film)


def write_board(source: Path, *, out: Path | None = None) -> Path:
    """The page of a film or folder."""
    return draw_board(source, out=out, reporter=SilentReporter(), force=True).page
