"""Comparisons of methods with the tiny model: two steps, five frames of 16 x 16."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from m2d.errors import InputError, OutputError
from m2d.families.loading import load_vae
from m2d.families.source import resolve_model
from m2d.methods.keyframes import _references
from m2d.methods.methods import METHODS
from m2d.progress import SilentReporter
from m2d.recipe.loader import Loaded
from m2d.recipe.overrides import COMMAND_LINE, Overrides
from m2d.recipe.schema import Recipe, Scene
from m2d.tasks import compare as task
from m2d.tasks.compare import PAGE, RESULTS, TABLE, ComparePlan, compare
from m2d.video.read import probe
from tests.m2d.tasks.journals import RecordingReporter

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


def recorded(folder: Path, method: str) -> dict[str, Any]:
    info = probe(folder / method / "ball.mp4")
    assert info.provenance is not None
    recipe: dict[str, Any] = info.provenance.last_run.recipe
    return recipe


def test_every_method_makes_its_own_film_with_equal_seeds_and_steps(compared: Path) -> None:
    recipes = {name: recorded(compared, name) for name in METHODS}
    assert {name: recipe["mask"] for name, recipe in recipes.items()} == {
        name: method.mask for name, method in METHODS.items()
    }
    assert recipes["prompt-relay"]["backend"]["options"] == {"attention": "prompt-relay"}
    assert len({json.dumps(recipe["sampling"]) for recipe in recipes.values()}) == 1
    digests = {name: probe(compared / name / "ball.mp4").provenance for name in METHODS}
    assert len({each.frames_sha256 for each in digests.values() if each}) == len(METHODS)
    found = json.loads((compared / RESULTS).read_text())
    assert found["stories"] == {"ball": [0, 0, 0]}
    assert found["methods"]["talc"]["settings"]["num_inference_steps"] == 2
    assert found["methods"]["talc"]["evaluation"]["num_scenes"] == 3
    assert "its own training is left out" in found["methods"]["talc"]["notes"][0]
    table, page = ((compared / name).read_text("utf-8") for name in (TABLE, PAGE))
    assert table.count("\n| ") == 1 + len(METHODS)
    assert page.count("data:image/webp") == 3 * len(METHODS)


@pytest.mark.parametrize("method", ["storydiffusion", "videostudio"])
def test_scenes_keep_their_keyframes_as_first_latent_frames(
    compared: Path, tiny_folder: Path, method: str
) -> None:
    pictures = sorted((compared / method / "keyframes").glob("*.png"))
    latents_FCHW = load_file(compared / method / "ball.m2d" / "latents.safetensors")
    vae = load_vae(resolve_model(str(tiny_folder)), device="cpu", dtype=torch.float32)
    assert len(pictures) == len(latents_FCHW) == 3
    for path, name in zip(pictures, sorted(latents_FCHW), strict=True):
        known_1CHW = vae.encode(np.asarray(Image.open(path))[None])
        torch.testing.assert_close(latents_FCHW[name][:1], known_1CHW, rtol=0, atol=1e-5)


def test_a_repeated_comparison_keeps_films_and_adds_methods(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare(plan(tmp_path, tiny_folder, ["cogvideox"]), SilentReporter())
    with pytest.raises(OutputError, match="holds a report"):
        compare(plan(tmp_path, tiny_folder, ["cogvideox"]), SilentReporter())
    (tmp_path / RESULTS).unlink()
    reporter = RecordingReporter()
    before = (tmp_path / "cogvideox" / "ball.mp4").stat().st_mtime_ns
    compare(plan(tmp_path, tiny_folder, ["cogvideox", "mask2dit"]), reporter)
    assert (tmp_path / "cogvideox" / "ball.mp4").stat().st_mtime_ns == before
    assert (tmp_path / "mask2dit" / "ball.mp4").is_file()
    (tmp_path / RESULTS).unlink()
    monkeypatch.setattr(task, "evaluate", None)
    with pytest.raises(OutputError, match=r"cogvideox.ball\.mp4"):
        compare(
            plan(tmp_path, tiny_folder, ["cogvideox"], overrides=Overrides(num_inference_steps=3)),
            SilentReporter(),
        )


def test_references_are_the_background_and_the_actors_of_a_scene() -> None:
    prompts = [[(each.setting, each.prompt) for each in _references(scene, STORY)] for scene in STORY.scenes]
    assert prompts == [
        [(None, "a beach"), ("a beach", "Actor1 stands still.")],
        [(None, "a city"), ("a beach", "Actor2 stands still."), ("a beach", "Actor1 stands still.")],
        [(None, "a beach")],
    ]


def test_unknown_methods_and_other_backends_are_rejected(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"methods: talk; use some of mask2dit, .*videostudio"):
        compare(plan(tmp_path, tiny_folder, ["talc", "talk"]), SilentReporter())
    with pytest.raises(InputError, match="'Ball': its backend is compile; methods run on eager"):
        compare(plan(tmp_path, tiny_folder, overrides=Overrides(backend="compile")), SilentReporter())
