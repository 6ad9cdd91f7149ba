"""Render films as one self-contained HTML document.

Owns template, style, script and the content security policy. The template engine escapes all texts of a film,
and the policy admits no script or style but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from m2d.video.board.film_view import FilmView

TEMPLATE, STYLE, SCRIPT = "page.html", "page.css", "page.js"


@dataclass(frozen=True, kw_only=True, slots=True)
class Unread:
    """A file that is not on the page, and the reason; both free of control characters."""

    name: str
    reason: str


def render_page(films: Sequence[FilmView], unread: Sequence[Unread], *, is_index: bool) -> str:
    """Render the page as HTML, ASCII only.

    Args:
        is_index: Whether the page lists several films; otherwise it shows one.
    """
    return render_template(
        __package__,
        "",
        media="data: 'self' file:" if any(_is_linked(film) for film in films) else "data:",
        films=films,
        unread=unread,
        is_index=is_index,
    )


def render_template(package: str, folder: str, *, media: str = "'none'", **values: object) -> str:
    """Render `page.html` of a folder in a package with its `page.css` and `page.js`, ASCII only.

    Args:
        media: Where videos may come from, as in a content security policy.
        values: The names of the template; `data` is for the script, which finds it as JSON.
    """
    place = resources.files(package).joinpath(folder) if folder else resources.files(package)
    style, script = (place.joinpath(name).read_text("ascii") for name in (STYLE, SCRIPT))
    environment = Environment(
        loader=PackageLoader(package, package_path=folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    policy = _policy(style, script, media=media)
    html = environment.get_template(TEMPLATE).render(policy=policy, style=style, script=script, **values)
    # Character references instead of UTF-8: the page reads the same however it is served.
    return html.lstrip().encode("ascii", "xmlcharrefreplace").decode("ascii")


def _is_linked(film: FilmView) -> bool:
    return bool(film.surroundings.video) and not film.surroundings.is_embedded


def _policy(style: str, script: str, *, media: str) -> str:
    # A page opened from disk has no origin, so `'self'` does not cover the film beside it.
    return (
        f"default-src 'none'; img-src data:; media-src {media}; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
