"""The page in a real browser: it renders with the network off, plays, obeys keys and runs nothing foreign."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.m2d.video.board.boards import write_board, write_films
from tests.m2d.video.board.chromium import Chromium, find_chromium

PROGRAM = find_chromium()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

FIRST, SECOND = ".card:nth-child(1) .clip", ".card:nth-child(2) .clip"
# The frame that a scene's picture shows, from its place in the grid of 3 x 2 frames of 24 x 16 pixels.
FRAME = (
    "(() => {{ const i = document.querySelector('{} image');"
    " return 0 - i.x.baseVal.value / 24 - 3 * i.y.baseVal.value / 16; }})()"
)
NUM_FRAMES, POSTER = 5, 2


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("films")
    walk, hostile = write_films(folder)
    return {
        "walk": write_board(walk),
        "hostile": write_board(hostile),
        "index": write_board(folder, out=folder / "index.html"),
    }


def frame_of(browser: Chromium, selector: str) -> int:
    return round(browser.evaluate(FRAME.format(selector)))


def focused_scene(browser: Chromium) -> str:
    label: str = browser.evaluate("document.activeElement.getAttribute('aria-label')")
    return label


@pytest.mark.parametrize(
    ("name", "scheme"), [("walk", "light"), ("walk", "dark"), ("hostile", "light"), ("index", "dark")]
)
def test_it_renders_without_a_network_and_without_a_complaint(
    name: str, scheme: str, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages[name], prefers_color_scheme=scheme)
    assert browser.requests() == [pages[name].as_uri()]
    assert browser.problems() == []
    assert browser.evaluate("document.title") in {
        "Storyboards",
        "A long walk - storyboard",
        "</title><script>hit()</script> - storyboard",
    }
    areas = (
        "document.querySelectorAll('image')].map(i => i.getBoundingClientRect()).map(b => b.width * b.height)"
    )
    sizes = browser.evaluate(f"[...{areas}")
    assert len(sizes) >= 4
    assert min(sizes) > 0
    ground = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(map(int, ground[4:-1].split(","))) > 380) == (scheme == "light")


@pytest.mark.parametrize("name", ["walk", "hostile", "index"])
def test_nothing_reaches_beyond_the_side_of_the_window(
    name: str, browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages[name])
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for width in (320, 420, 800, 1400):
        browser.resize(width)
        assert browser.evaluate("innerWidth") == width
        assert browser.evaluate("document.documentElement.scrollWidth") <= width


def test_a_scene_plays_while_the_pointer_is_on_it(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["walk"])
    assert frame_of(browser, FIRST) == POSTER
    browser.hover(FIRST)
    seen = [f"{FRAME.format(FIRST)} === {frame}" for frame in (0, 3, NUM_FRAMES - 1, 0)]
    for moment in seen:
        browser.wait_for(moment)
    assert frame_of(browser, SECOND) == POSTER
    browser.hover("h1")
    browser.wait_for(f"{FRAME.format(FIRST)} === {POSTER}")


def test_keys_reach_every_scene_play_it_step_through_it_and_stop_it(
    browser: Chromium, pages: dict[str, Path]
) -> None:
    browser.open(pages["walk"])
    browser.evaluate("document.querySelector('.together').focus()")
    reached = []
    for _ in range(5):
        browser.press("Tab")
        reached.append(focused_scene(browser))
    assert reached == [f"Play scene {number}" for number in range(1, 6)]

    browser.evaluate("document.querySelector('.together').focus()")
    browser.press("Tab")
    browser.wait_for(f"{FRAME.format(FIRST)} === 4")
    for key, frame in (("Home", 0), ("ArrowRight", 1), ("End", 4), ("ArrowRight", 0), ("ArrowLeft", 4)):
        browser.press(key)
        assert frame_of(browser, FIRST) == frame
    browser.press("Enter")
    assert browser.evaluate(f"document.querySelector('{FIRST}').getAttribute('aria-pressed')") == "true"
    browser.press("Tab")
    browser.wait_for(f"{FRAME.format(FIRST)} === 3")
    browser.evaluate(f"document.querySelector('{FIRST}').focus()")
    browser.press("Escape")
    assert browser.evaluate(f"document.querySelector('{FIRST}').getAttribute('aria-pressed')") == "false"
    assert frame_of(browser, FIRST) == POSTER


def test_nothing_moves_by_itself_where_motion_is_unwanted(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["walk"], prefers_reduced_motion="reduce")
    browser.hover(FIRST)
    browser.evaluate("new Promise(done => setTimeout(done, 400))")
    assert frame_of(browser, FIRST) == POSTER
    browser.evaluate(f"document.querySelector('{FIRST}').click()")
    browser.wait_for(f"{FRAME.format(FIRST)} === 4")


def test_all_scenes_play_side_by_side(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["walk"])
    browser.evaluate("document.querySelector('.together').click()")
    browser.wait_for("document.querySelectorAll('.clip.live').length === 5")
    browser.wait_for(f"{FRAME.format(SECOND)} === 4")
    browser.evaluate("document.querySelector('.together').click()")
    assert browser.evaluate("document.querySelectorAll('.clip.live').length") == 0
    assert frame_of(browser, SECOND) == POSTER


@pytest.mark.parametrize("is_embedded", [True, False])
def test_the_film_itself_plays_embedded_or_from_beside_the_page(
    is_embedded: bool, browser: Chromium, pages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pages["walk"].parent
    page = pages["walk"]
    if not is_embedded:
        monkeypatch.setattr("m2d.tasks.board.LARGEST_EMBEDDED_BYTES", 0)
        page = write_board(folder / "walk.mp4", out=folder / "linked.html")
    browser.open(page)
    browser.wait_for("document.querySelector('video').readyState >= 1")
    assert browser.evaluate("document.querySelector('video').duration") == pytest.approx(23 / 8, abs=0.05)
    browser.evaluate("document.querySelector('video').currentTime = 1.5")
    browser.wait_for("document.querySelector('.playhead.live')")
    assert browser.problems() == []
    beside = [] if is_embedded else [(folder / "walk.mp4").as_uri()]
    assert sorted(set(browser.requests())) == sorted([page.as_uri(), *beside])


def test_no_word_of_a_film_becomes_markup_or_script(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    browser.hover(FIRST)
    browser.hover(SECOND)
    assert browser.evaluate("document.querySelectorAll('img, script, style').length") == 2
    assert browser.evaluate("document.querySelectorAll('[onerror], [onmouseover], [style]').length") == 0
    shown = browser.evaluate("document.querySelector('.prompt').textContent")
    assert shown == "<img src=x onerror=hit()> </script><script>hit()</script> {{ 7 * 7 }} [31mgnirts"
    assert browser.problems() == []


def test_what_is_planted_in_the_page_is_refused_by_its_policy(
    browser: Chromium, pages: dict[str, Path], tmp_path: Path
) -> None:
    planted = (
        "<script>document.title = 'hit'</script><style>#b { color: blue }</style>"
        "<b id=b onclick=\"document.title = 'hit'\" style='color: red'>b</b>"
        "<img src='https://m2d.invalid/x.png'><iframe src='data:text/html,x'></iframe>"
        "<form action='https://m2d.invalid/'><button id=send></form>"
    )
    page = tmp_path / "planted.html"
    page.write_text(pages["walk"].read_text().replace("<footer>", f"{planted}<footer>"))
    browser.open(page)
    browser.evaluate("(document.querySelector('#b').click(), document.querySelector('#send').click())")
    browser.evaluate("new Promise(done => setTimeout(done, 100))")
    assert browser.evaluate("document.title") == "A long walk - storyboard"
    colours = "[document.querySelector('#b'), document.body].map(e => getComputedStyle(e).color)"
    assert len(set(browser.evaluate(colours))) == 1
    assert browser.requests() == [page.as_uri()]
    for directive in ("script-src", "style-src", "img-src", "default-src", "form-action"):
        assert any(directive in problem for problem in browser.problems()), directive
