"""Comparisons of methods with the tiny model: two steps, five frames of 16 x 16."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from m2d.errors import CheckpointError, InputError, Interrupted, OutputError, Remedy
from m2d.methods.keyframes import _references
from m2d.methods.methods import METHODS
from m2d.progress import SilentReporter
from m2d.recipe.loader import Loaded
from m2d.recipe.overrides import COMMAND_LINE, Overrides
from m2d.recipe.schema import Recipe, Scene
from m2d.stop import StopRequest
from m2d.tasks import compare as task
from m2d.tasks.compare import PAGE, RESULTS, TABLE, ComparePlan, compare
from m2d.tasks.models import make_random
from m2d.video.read import probe
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.video.board.chromium import Chromium, find_chromium

PROGRAM = find_chromium()

STORY = Recipe(
    title="Ball",
    cast={"Actor1": "red ball", "Actor2": "blue cube"},
    setting="a beach",
    scenes=(
        Scene(prompt="Actor1 waits."),
        Scene(prompt="Actor2 meets Actor1.", setting="a city"),
        Scene(prompt="Rain."),
    ),
)


def plan(out: Path, model: Path, methods: Sequence[str] = tuple(METHODS), **changes: Any) -> ComparePlan:
    story = STORY.model_copy(
        update={"video": STORY.video.model_copy(update={"num_frames": 5, "height": 16, "width": 16})}
    )
    fields: dict[str, Any] = {
        "stories": [partial(Loaded, value=story, places=COMMAND_LINE)],
        "methods": tuple(methods),
        "out": out,
        "model": str(model),
        "overrides": Overrides(num_inference_steps=2),
        "embedder": "none",
    }
    return ComparePlan(**fields | changes)


@pytest.fixture(scope="module")
def compared(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison of all methods."""
    out = tmp_path_factory.mktemp("comparison")
    compare(plan(out, tiny_folder), SilentReporter())
    return out


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
def test_the_page_shows_all_methods_in_a_browser_without_a_network(compared: Path, tmp_path: Path) -> None:
    assert PROGRAM is not None
    with Chromium(PROGRAM, tmp_path / "profile") as browser:
        browser.open(compared / PAGE)
        assert browser.requests() == [(compared / PAGE).as_uri()]
        assert browser.problems() == []
        shown = browser.evaluate("document.body.innerText")
        assert [each.title for each in METHODS.values() if each.title not in shown] == []
        drawn = "[...document.images].filter(image => image.complete && image.naturalWidth > 20).length"
        assert browser.evaluate(drawn) >= len(METHODS)
        for width in (320, 1200):
            browser.resize(width)
            assert browser.evaluate("document.documentElement.scrollWidth") <= width


def recorded(folder: Path, method: str) -> dict[str, Any]:
    info = probe(folder / method / "ball.mp4")
    assert info.provenance is not None
    recipe: dict[str, Any] = info.provenance.last_run.recipe
    return recipe


def test_every_method_makes_its_own_film_with_equal_seeds_and_steps(compared: Path) -> None:
    recipes = {name: recorded(compared, name) for name in METHODS}
    found = json.loads((compared / RESULTS).read_text())
    for name, each in found["methods"].items():
        assert each["settings"]["mask"] == recipes[name]["mask"]
    assert recipes["prompt-relay"]["backend"]["options"] == {"attention": "prompt-relay"}
    assert len({json.dumps(recipe["sampling"]) for recipe in recipes.values()}) == 1
    digests = {name: probe(compared / name / "ball.mp4").provenance for name in METHODS}
    assert len({each.frames_sha256 for each in digests.values() if each}) == len(METHODS)
    assert found["stories"] == {"ball": [0, 0, 0]}
    assert found["methods"]["talc"]["settings"]["num_inference_steps"] == 2
    assert found["methods"]["talc"]["evaluation"]["num_scenes"] == 3
    assert "its own training is left out" in found["methods"]["talc"]["notes"][0]
    table, page = ((compared / name).read_text("utf-8") for name in (TABLE, PAGE))
    assert table.count("\n| ") == 1 + len(METHODS)
    for text in (table, page):
        assert "Steps 2, guidance 6.0" in text
        assert "Seed 0 for all scenes" in text
        assert "Motion smoothness, %; larger is better" in text
    assert page.count("data:image/webp") == 3 * len(METHODS)


def test_keyframes_are_clean_context_of_their_own_scenes(compared: Path) -> None:
    windows = {}
    for method in ("storydiffusion", "videostudio"):
        info = probe(compared / method / "ball.mp4")
        assert info.provenance is not None
        assert len(info.provenance.scenes) == 3
        windows[method] = [
            [(each.scenes, each.targets) for each in run.windows] for run in info.provenance.runs
        ]
    # Keyframes are scenes 0 to 2, made jointly.
    assert windows["storydiffusion"] == [
        [((0, 1, 2), (0, 1, 2))],
        [((0, 3), (3,)), ((1, 4), (4,)), ((2, 5), (5,))],
    ]
    # References: beach, red ball, city, blue cube; then keyframes 4 to 6.
    assert windows["videostudio"] == [
        [((0, 1, 2, 3), (0, 1, 2, 3))],
        [((0, 1, 4), (4,)), ((1, 2, 3, 5), (5,)), ((0, 6), (6,))],
        [((4, 7), (7,)), ((5, 8), (8,)), ((6, 9), (9,))],
    ]


def test_an_image_to_video_model_starts_from_drawn_keyframes(tmp_path: Path) -> None:
    models = [tmp_path / name for name in ("cogvideox-5b", "cogvideox-5b-i2v")]
    for model in models:
        make_random(model.name, model, is_tiny=True)
    story = STORY.model_copy(update={"scenes": STORY.scenes[:2]})
    changes = {
        "stories": [partial(Loaded, value=story, places=COMMAND_LINE)],
        "overrides": Overrides(num_inference_steps=1),
        "image_model": str(models[1]),
    }
    compare(plan(tmp_path, models[0], ["storydiffusion"], **changes), SilentReporter())
    pictures = sorted((tmp_path / "storydiffusion" / "keyframes").glob("*.png"))
    scenes = recorded(tmp_path, "storydiffusion")["scenes"]
    assert [scene["image"] for scene in scenes] == [path.name for path in pictures]


def test_networks_that_are_missing_are_named_before_films_are_made(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="these scores need efficientnet i3d minilm"):
        compare(plan(tmp_path / "out", tiny_folder, ["plain"], embedder="auto"), SilentReporter())
    assert not (tmp_path / "out").exists()


def test_a_reference_that_cannot_serve_is_refused_before_films_are_made(
    tiny_folder: Path, tmp_path: Path
) -> None:
    small = plan(tmp_path / "out", tiny_folder, ["plain"], reference=tmp_path / "nosuch")
    story = partial(Loaded, value=STORY, places=COMMAND_LINE)
    puppet = replace(small, embedder="auto", model="builtin:puppet", stories=[story])
    for asked, message in (
        (small, r"reference: .* needs an embedder"),
        (replace(small, embedder="puppet"), "frames of 16x16: no attribute classifier"),
        (puppet, "nosuch: does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            compare(asked, SilentReporter())
    assert not (tmp_path / "out").exists()


def test_a_repeated_comparison_keeps_films_and_adds_methods(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(plan(tmp_path, tiny_folder, ["cogvideox"]), SilentReporter())
    with pytest.raises(OutputError, match="holds a report"):
        compare(plan(tmp_path, tiny_folder, ["cogvideox"]), SilentReporter())
    for name in (RESULTS, TABLE, PAGE):
        (tmp_path / name).unlink()
    reporter = RecordingReporter()
    before = (tmp_path / "cogvideox" / "ball.mp4").stat().st_mtime_ns
    compare(plan(tmp_path, tiny_folder, ["cogvideox", "mask2dit"]), reporter)
    assert (tmp_path / "cogvideox" / "ball.mp4").stat().st_mtime_ns == before
    assert (tmp_path / "mask2dit" / "ball.mp4").is_file()
    for name in (RESULTS, TABLE, PAGE):
        (tmp_path / name).unlink()
    monkeypatch.setattr(task, "evaluate", None)
    with pytest.raises(OutputError, match=r"cogvideox.ball\.mp4"):
        compare(
            plan(tmp_path, tiny_folder, ["cogvideox"], overrides=Overrides(num_inference_steps=3)),
            SilentReporter(),
        )


def test_an_interrupted_comparison_says_how_it_continues(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise Interrupted("SIGTERM: finished work is kept", remedy=Remedy.RESUME)

    monkeypatch.setattr(task, "make_film", stopped)
    with pytest.raises(Interrupted, match=r"work is kept; the same call continues") as raised:
        compare(plan(tmp_path, tiny_folder), SilentReporter())
    assert raised.value.remedy is None


def test_a_signal_at_the_end_of_a_film_ends_the_comparison(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def last_moment(job: Any, *_: Any, **__: Any) -> None:
        with StopRequest():
            signal.raise_signal(signal.SIGTERM)
        made.append(job)

    monkeypatch.setattr(task, "make_film", last_moment)
    with pytest.raises(Interrupted, match=r"^SIGTERM ended the comparison: .* the same call continues$"):
        compare(plan(tmp_path, tiny_folder), SilentReporter())
    assert len(made) == 1


def test_references_are_the_background_and_the_actors_of_a_scene() -> None:
    prompts = [[(each.setting, each.prompt) for each in _references(scene, STORY)] for scene in STORY.scenes]
    assert prompts == [
        [(None, "a beach"), ("a beach", "Actor1 stands still.")],
        [(None, "a city"), ("a beach", "Actor1 stands still."), ("a beach", "Actor2 stands still.")],
        [(None, "a beach")],
    ]


def test_unknown_methods_and_other_backends_are_rejected(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"methods: talk; use some of mask2dit, .*videostudio"):
        compare(plan(tmp_path, tiny_folder, ["talc", "talk"]), SilentReporter())
    with pytest.raises(InputError, match="image_model: plain, talc: draw no keyframes"):
        compare(plan(tmp_path, tiny_folder, ["talc", "plain"], image_model="some"), SilentReporter())
    with pytest.raises(InputError, match="'Ball': its backend is compile; methods run on eager"):
        compare(plan(tmp_path, tiny_folder, overrides=Overrides(backend="compile")), SilentReporter())
