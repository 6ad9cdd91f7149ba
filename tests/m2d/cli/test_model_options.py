"""Models of a hub and parts from other places, on the command line and in recipes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d.families.family import ModelFamily
from m2d.families.source import resolve_model
from m2d.recipe.loader import load_recipe
from m2d.recipe.model_choice import ModelChoice, choice_of, with_given
from m2d.recipe.writer import to_yaml
from tests.m2d.cli.conftest import Run
from tests.m2d.families.hub_server import Hub, serve_hub

NAME = "anyone/tiny"


@pytest.fixture
def hub(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    with serve_hub(tmp_path / "hub", monkeypatch) as server:
        server.add(NAME, tiny_folder)
        yield server


def test_get_downloads_a_model_and_check_uses_it(m2d: Run, hub: Hub) -> None:
    absent = m2d("check", "story.yaml", "--model", NAME)
    assert absent.exit_code == 2
    assert "the model of the hub is not here; `m2d generate` downloads it" in " ".join(absent.stderr.split())
    assert hub.num_requests == 0
    result = m2d("models", "get", NAME, "--json")
    (found,) = json.loads(result.stdout)["models"]
    assert (found["name"], Path(found["folder"]).is_dir()) == (NAME, True)
    assert "downloading" in result.stderr
    assert m2d("check", "story.yaml", "--model", NAME).exit_code == 0
    assert m2d("models", "get", "i3d", "--revision", "v1").exit_code == 2


def test_a_film_records_the_places_of_its_model_without_folders(
    m2d: Run, hub: Hub, folder: Path, tiny_folder: Path
) -> None:
    shutil.copytree(tiny_folder / "vae", folder / "other" / "vae")
    given = ("--model", NAME, "--revision", "main", "--set", f"vae={folder}/other")
    short = ("--steps", "1", "--set", "video.num_frames=5", "--set", "sampling.guidance_scale=1")
    assert (
        m2d(
            "generate", "-p", "Actor1 (round red body) walks right.", *short, *given, "--out", "a.mp4"
        ).exit_code
        == 0
    )
    inspected = json.loads(m2d("inspect", "a.mp4", "--json").stdout)
    (run,), (made,) = inspected["provenance"]["runs"], inspected["lineage"]
    assert made["means"]["vae"] == "other"
    recorded = {name: run["recipe"].get(name) for name in ModelChoice.model_fields}
    nothing = {"variant": None, "transformer": None, "text_encoder": None}
    assert recorded == {"model": NAME, "revision": "main", "vae": "other", **nothing}
    assert run["model"] == {"name": NAME, "digest": resolve_model(str(tiny_folder)).digest}
    assert not {name for name in hub.files if name.startswith("vae/")}

    missing = m2d("reproduce", "a.mp4")
    assert (missing.exit_code, "--model" in missing.stderr) == (2, True)
    again = m2d("reproduce", "a.mp4", *given, "--json")
    assert json.loads(again.stdout)["differing_scenes"] == []


def test_another_model_leaves_the_parts_of_the_recipe_behind(folder: Path) -> None:
    text = (folder / "story.yaml").read_text() + "transformer: mine.safetensors\nrevision: v2\n"
    (folder / "story.yaml").write_text(text)
    recipe = load_recipe(folder / "story.yaml")
    assert choice_of(recipe).parts == {"transformer": "mine.safetensors"}
    assert with_given(recipe, ModelChoice(vae="v")).parts == {"transformer": "mine.safetensors", "vae": "v"}
    assert choice_of(with_given(recipe, "builtin:puppet")) == ModelChoice(model="builtin:puppet")
    (folder / "again.yaml").write_text(to_yaml(recipe))
    assert choice_of(load_recipe(folder / "again.yaml")) == choice_of(recipe)


def test_a_wrong_place_is_named_with_its_option(m2d: Run, folder: Path) -> None:
    result = m2d("check", "story.yaml", "--vae", "https://example.org/vae")
    assert result.exit_code == 2
    assert "--vae: 'https://example.org/vae' is an address" in " ".join(result.stderr.split())
    result = m2d("generate", "story.yaml", "--vae", "a", "--set", "vae=b")
    assert result.exit_code == 2
    assert "--set vae: given twice; give it once, or --vae" in " ".join(result.stderr.split())
    assert not list(folder.glob("*.mp4"))


def test_a_part_that_is_not_there_is_named_where_it_was_given(m2d: Run, folder: Path) -> None:
    result = m2d("check", "story.yaml", "--transformer", "nope")
    assert result.exit_code == 2
    assert "--transformer: 'nope': there is no such folder" in " ".join(result.stderr.split())
    text = (folder / "story.yaml").read_text()
    (folder / "story.yaml").write_text(f"{text}text_encoder: nope\n")
    line = len(text.splitlines()) + 1
    result = m2d("check", "story.yaml", "--vae", "builtin:puppet")
    assert f"story.yaml:{line}:15: text_encoder: 'nope': there is no such" in " ".join(result.stderr.split())


def test_check_shows_the_parts_that_come_from_elsewhere_and_what_is_doubted(
    m2d: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("check", "story.yaml", "--model", "builtin:puppet", "--vae", "builtin:puppet-large")
    assert re.search(r"model +builtin:puppet\n +vae +builtin:puppet-large\n", m2d(*given).stdout)
    monkeypatch.setattr(ModelFamily, "vae_doubt", lambda *_: "vae: scaling_factor 1 is another's")
    result = m2d(*given, "--text-encoder", "builtin:puppet", "--json")
    shown = json.loads(result.stdout)
    parts = {"vae": "builtin:puppet-large", "text_encoder": "builtin:puppet"}
    assert (shown["model"], shown["parts"]) == ("builtin:puppet", parts)
    assert "vae: scaling_factor 1 is another's" in shown["warnings"]
    assert str(ModelChoice(**parts)) == (
        "builtin:puppet-large (vae builtin:puppet-large, text encoder builtin:puppet)"
    )
