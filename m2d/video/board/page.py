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
    style, script = (_own_text(name) for name in (STYLE, SCRIPT))
    environment = Environment(
        loader=PackageLoader(__package__, package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template(TEMPLATE).render(
        films=films,
        unread=unread,
        is_index=is_index,
        policy=_policy(style, script, has_links=any(_is_linked(film) for film in films)),
        style=style,
        script=script,
    )
    # Character references instead of UTF-8: the page reads the same however it is served.
    return html.lstrip().encode("ascii", "xmlcharrefreplace").decode("ascii")


def _own_text(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("ascii")


def _is_linked(film: FilmView) -> bool:
    return bool(film.surroundings.video) and not film.surroundings.is_embedded


def _policy(style: str, script: str, *, has_links: bool) -> str:
    # A page opened from disk has no origin, so `'self'` does not cover the film beside it.
    media = "data: 'self' file:" if has_links else "data:"
    return (
        f"default-src 'none'; img-src data:; media-src {media}; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
