"""Board: write one HTML page that shows a film, or all films of a folder, and how they were made.

Owns which files are read and where the page goes; `m2d.video.board` renders it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from m2d.errors import InputError
from m2d.files import check_writable, write_bytes
from m2d.progress import Reporter
from m2d.reading import read_bytes
from m2d.tasks.inspect import RunFolderState, inspect_run_folder
from m2d.video.board.film_pictures import paint_film
from m2d.video.board.film_view import FilmView, Surroundings, film_view
from m2d.video.board.page import Unread, render_page
from m2d.video.board.pictures import data_uri
from m2d.video.printable import printable
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo, probe

INDEX_NAME = "board.html"
LARGEST_EMBEDDED_BYTES = 6 << 20
FILM_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
LONGEST_REASON = 400
# A film is untrusted input; a recipe has at most 500 scenes.
MOST_SCENES = 1000
# Codecs and media types that browsers play.
_PLAYED_CODECS = frozenset({"h264", "av1", "vp8", "vp9"})
_MEDIA_TYPES = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}


@dataclass(frozen=True, kw_only=True, slots=True)
class BoardResult:
    """The written page, the names of its films in order, and the files that could not be shown."""

    page: Path
    size_bytes: int
    films: tuple[str, ...]
    unread: tuple[Unread, ...]


def draw_board(
    source: Path, *, out: Path | None = None, reporter: Reporter, force: bool = False
) -> BoardResult:
    """Write the page of a film, or of all films in a folder that m2d made, newest first.

    Args:
        source: A film or a folder.
        out: The page; None puts `NAME.html` beside the film, or `board.html` into the folder.
        reporter: Receives progress, and warnings about films that cannot be shown.
        force: Whether an existing page is replaced.

    Raises:
        OutputError: The page exists already or cannot be written.
        InputError: The film, or every film of the folder, cannot be shown.
    """
    page = out or (source / INDEX_NAME if source.is_dir() else source.with_suffix(".html"))
    if page.suffix.lower() not in {".html", ".htm"}:
        raise InputError(f"{str(page)!r} does not end in .html; a board is an HTML page", argument="out")
    check_writable(page, force=force)
    if source.is_dir():
        views, unread = _views_of_folder(source, page=page, reporter=reporter)
    else:
        views, unread = [_view(source, page=page, is_alone=True)], []
    for file in unread:
        reporter.warn(f"{file.name}: {file.reason}")
    if not views:
        raise InputError(f"{source}: holds no film that m2d made; make one with `m2d generate`")
    html = render_page(views, unread, is_index=source.is_dir()).encode("ascii")
    write_bytes(page, html, force=force)
    return BoardResult(
        page=page,
        size_bytes=len(html),
        films=tuple(view.surroundings.name for view in views),
        unread=tuple(unread),
    )


def _views_of_folder(folder: Path, *, page: Path, reporter: Reporter) -> tuple[list[FilmView], list[Unread]]:
    """Read all films of a folder; also return those that cannot be shown."""
    views: list[FilmView] = []
    unread: list[Unread] = []
    paths = _films_in(folder)
    with reporter.stage("read films", total=len(paths)) as progress:
        for path in paths:
            try:
                views.append(_view(path, page=page, is_alone=False))
            except InputError as error:
                unread.append(Unread(name=printable(path.name), reason=_reason(error, path)))
            progress.advance(detail=path.name)
    return views, unread


def _films_in(folder: Path) -> list[Path]:
    """List the films of a folder, newest first."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix.lower() in FILM_SUFFIXES and path.is_file()]
        written = {path: path.stat().st_mtime_ns for path in paths if not path.name.startswith(".")}
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}; give a folder you may read") from error
    return sorted(written, key=lambda path: (-written[path], path.name))


def _view(path: Path, *, page: Path, is_alone: bool) -> FilmView:
    info = probe(path)
    provenance = info.provenance
    if provenance is None:
        raise InputError(f"{path}: was not made by m2d, or has lost its provenance")
    if max(len(provenance.scenes), len(provenance.runs)) > MOST_SCENES:
        raise InputError(
            f"{path}: {len(provenance.scenes)} scenes of {len(provenance.runs)} runs; a board shows at most"
            f" {MOST_SCENES}"
        )
    pictures = paint_film(path, info, provenance)
    surroundings = _surroundings(path, info, provenance, page=page, is_alone=is_alone)
    return film_view(info, provenance, pictures, surroundings)


def _surroundings(
    path: Path, info: FilmInfo, provenance: Provenance, *, page: Path, is_alone: bool
) -> Surroundings:
    place = _place(path, page)
    link = f"./{quote(os.fsencode(place.as_posix()))}"
    media_type = _MEDIA_TYPES.get(path.suffix.lower(), "")
    is_played = is_alone and media_type != "" and info.codec in _PLAYED_CODECS
    is_embedded = is_played and info.size_bytes <= LARGEST_EMBEDDED_BYTES
    run_folder = inspect_run_folder(path, provenance)
    return Surroundings(
        name=printable(path.name),
        place=printable(str(place)),
        link=link,
        video=data_uri(read_bytes(path, limit_bytes=LARGEST_EMBEDDED_BYTES), kind=media_type)
        if is_embedded
        else link
        if is_played
        else "",
        is_embedded=is_embedded,
        written=_day_of(path),
        timings_s=run_folder.timings_s,
        run_folder=_describe(run_folder, path),
    )


def _day_of(path: Path) -> str:
    """Day on which the film was written; empty where the file's time lies outside the calendar."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError):
        return ""


def _place(path: Path, page: Path) -> Path:
    """Path of the film relative to the page; only its name if it is elsewhere, to keep the folder private."""
    film, folder = path.resolve(), page.parent.resolve()
    return film.relative_to(folder) if film.is_relative_to(folder) else Path(film.name)


def _describe(run_folder: RunFolderState, path: Path) -> str:
    return {
        "present": "The latents it was decoded from lie beside the film.",
        "absent": "No run folder lies beside the film.",
        "unusable": f"The run folder is unusable: {_cleaned(run_folder.problem, path)}",
    }[run_folder.latents]


def _reason(error: InputError, path: Path) -> str:
    return _cleaned(str(error), path).removeprefix(f"{printable(path.name)}: ")


def _cleaned(text: str, path: Path) -> str:
    """Remove the film's folder from a text, to keep it private."""
    return printable(text.replace(f"{path.parent}{os.sep}", ""), limit=LONGEST_REASON)
