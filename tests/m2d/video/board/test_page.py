"""The page as a document: whole, harmless, and without anything that is not in it."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from tests.m2d.video.board.boards import HOSTILE_TITLE, write_board, write_films
from tests.m2d.video.board.documents import Element, read_page

OWN_TAGS = {
    *("a", "article", "b", "body", "br", "button", "circle", "code", "dd", "defs", "details", "div", "dl"),
    *("dt", "figcaption", "figure", "footer", "g", "h1", "h2", "h3", "head", "header", "html", "image", "li"),
    *("line", "link", "main", "marker", "meta", "ol", "p", "path", "pre", "rect", "script", "section"),
    *("span", "style", "summary", "svg", "text", "title", "ul", "video"),
}
ADDRESSES = ("src", "href", "srcset", "poster", "data", "action", "formaction", "xlink:href", "background")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    write_films(folder)
    return folder


def everything(element: Element) -> list[Element]:
    return [element, *(found for child in element.children for found in everything(child))]


@pytest.fixture(params=["walk", "hostile", "index"])
def html(request: pytest.FixtureRequest, folder: Path) -> str:
    source = {"walk": folder / "walk.mp4", "hostile": folder / "a'b\"<i>&amp;.mp4", "index": folder}
    return write_board(source[request.param], out=folder / "page.html").read_text("ascii")


def test_only_the_template_s_own_tags_and_attributes_come_out(html: str) -> None:
    elements = everything(read_page(html))
    assert {element.tag for element in elements} - {"document"} <= OWN_TAGS
    names = {name for element in elements for name in element.attributes}
    assert not [name for name in names if name.startswith("on") or name == "style"]


def test_every_address_is_in_the_page_or_beside_it(html: str) -> None:
    elements = everything(read_page(html))
    addresses = [
        element.attributes[name] for element in elements for name in ADDRESSES if name in element.attributes
    ]
    assert addresses
    assert [address for address in addresses if not address.startswith(("data:", "#", "./"))] == []
    assert not re.search(r"@import|url\((?!#tip)", html)
    assert "http://" not in html
    assert "https://" not in html


def test_the_policy_admits_the_page_s_own_style_and_script_and_nothing_else(html: str) -> None:
    page = read_page(html)
    (policy,) = [
        meta.attributes["content"]
        for meta in page.all("meta")
        if meta.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", maxsplit=1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == rules["media-src"] == "data:"
    for tag in ("style", "script"):
        (own,) = page.all(tag)
        text = "".join(child.text for child in own.children)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_a_hostile_film_reads_as_what_it_says(folder: Path) -> None:
    page = read_page(write_board(folder / "a'b\"<i>&amp;.mp4", out=folder / "page.html").read_text())
    assert page.all("h1")[0].words() == HOSTILE_TITLE
    prompts = [prompt.words() for prompt in page.all("p", "prompt")]
    assert prompts[0] == "<img src=x onerror=hit()> </script><script>hit()</script> {{ 7 * 7 }} [31mgnirts"
    assert prompts[1].startswith("\"' onmouseover=\"hit()\" style='position:fixed' WWW")
    assert prompts[2].endswith("javascript:hit() \N{REPLACEMENT CHARACTER}")
    assert "a'b\"<i>&amp;.mp4" in page.words()


def test_a_page_is_the_same_every_time(folder: Path) -> None:
    pages = [write_board(folder, out=folder / "page.html").read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


def test_one_film_fills_a_page_with_everything(folder: Path) -> None:
    page = read_page(write_board(folder / "walk.mp4", out=folder / "page.html").read_text())
    assert page.all("title")[0].words() == "A long walk - storyboard"
    cards = page.all("li", "card")
    assert len(cards) == 5
    second = cards[1].words()
    for words in (
        "cut",
        "colour jump",
        "run 3",
        "reroll",
        "Actor1 walks to stop 2.",
        "a second sun",
        "seed 41",
    ):
        assert words in second
    assert "guidance 2.5 length 5 frames, 0.6 s begins at 0.6 s" in second
    assert "crossfade 2" in cards[3].words()
    assert "made with an older version of scene 2" in cards[3].words()
    assert "continue" in cards[4].words()
    assert [bar.words() for bar in page.all("dl", "bars")[0].all("div")] == [
        "denoise 14.6 s",
        "decode 5.5 s",
        "encode prompts 0.1 s",
    ]
    assert len(page.all("svg", "mask")) == 4
    assert len(page.all("svg", "graph")) == 1
    assert [video.attributes["src"][:22] for video in page.all("video")] == ["data:video/mp4;base64,"]
    words = page.words()
    for expected in (
        "scene 4 from scenes 2-3; scene 5 from scenes 3-4",
        "The same as run 2.",
        "25 steps, scheduler ddim",
        "m2d reroll FILM --scene 4",
    ):
        assert expected in words


def test_without_a_script_the_middle_frame_of_every_scene_is_seen(folder: Path) -> None:
    page = read_page(write_board(folder / "walk.mp4", out=folder / "page.html").read_text())
    for clip in page.all("button", "clip"):
        ((image,), (window,)) = clip.all("image"), clip.all("svg")
        # Half a pixel less on each side, where the frame beside it would shine through.
        assert window.attributes["viewbox"] == "0.5 0.5 23.0 15.0"
        # The third of five frames: the last of the first row of three.
        assert (image.attributes["x"], image.attributes["y"]) == ("-48", "0")
        assert (image.attributes["width"], image.attributes["height"]) == ("72", "32")
    assert all("hidden" in button.attributes for button in page.all("button", "together"))


def test_an_index_has_a_card_for_every_scene_and_links_instead_of_films(folder: Path) -> None:
    page = read_page(write_board(folder, out=folder / "page.html").read_text())
    films = page.all("article")
    assert [len(film.all("li", "card")) for film in films] == [3, 5]
    assert page.all("video") == []
    links = [link.attributes["href"] for link in page.all("a")]
    assert links == ["#film-1", "#film-2", "./a%27b%22%3Ci%3E%26amp%3B.mp4", "./walk.mp4"]
    assert [film.attributes["id"] for film in films] == ["film-1", "film-2"]
