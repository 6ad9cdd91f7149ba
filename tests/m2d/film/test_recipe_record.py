"""Stored recipes keep the filter that older films were enlarged with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decoded_film import read_film
from m2d.film.inherit import validated_recipe
from m2d.film.recipe_record import recipe_record
from m2d.recipe.schema import Recipe, Upscale
from tests.m2d.tasks.studio import Studio, frames_of, open_studio


def recipe(upscale: Any) -> Recipe:
    return Recipe.model_validate({"title": "a", "scenes": ("b",), "video": {"upscale": upscale}})


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.mark.parametrize(
    ("upscale", "stored"),
    [
        (1, 1),
        (5, {"factor": 5, "filter": "lanczos"}),
        ({"factor": 5, "filter": "nearest"}, 5),
        ({"factor": 5}, {"factor": 5, "filter": "lanczos"}),
    ],
)
def test_a_stored_recipe_gives_the_same_film(upscale: Any, stored: Any) -> None:
    made = recipe(upscale)
    document = json.loads(json.dumps(recipe_record(made)))
    assert document["video"]["upscale"] == stored
    again = validated_recipe(document)
    assert again.video.upscale.factor == made.video.upscale.factor
    if made.video.upscale.factor > 1:
        assert again == made
    assert recipe_record(again) == document


def test_a_number_in_a_record_is_what_older_versions_made_with_it() -> None:
    old = {"title": "a", "scenes": ["b"], "video": {"upscale": 3}}
    assert validated_recipe(old).video.upscale == Upscale(factor=3, filter="nearest")


def test_films_of_older_versions_grow_from_the_last_scenes_alone() -> None:
    old = {"title": "a", "scenes": ["b"]}
    assert validated_recipe(old).context == "recent"
    assert validated_recipe(recipe_record(recipe(1))).context == "first"


def test_a_record_names_files_without_their_folders() -> None:
    stored = {
        "title": "a",
        "image": "/home/user/secret.png",
        "loras": [{"path": "../up/style.safetensors"}],
        "backend": {"quantize": "/srv/q8.gguf"},
        "scenes": [{"prompt": "b", "image": "../../other.png"}, {"prompt": "c", "image": "~/own.png"}],
    }
    read = validated_recipe(stored)
    assert (read.image, read.loras[0].path, read.backend.quantize) == (
        "secret.png",
        "style.safetensors",
        "q8.gguf",
    )
    assert [scene.image for scene in read.scenes] == ["other.png", "own.png"]


@pytest.mark.parametrize("name", ["lanczos", "nearest"])
def test_films_that_grow_keep_their_filter_and_are_reproduced(studio: Studio, name: str) -> None:
    upscale = {"factor": 4, "filter": name}
    film = studio.generate(1, name=name, video={"upscale": upscale}).film
    longer = studio.extend(film, "a fish", out=studio.path(f"{name} longer"))
    record = longer.provenance
    assert record.video.upscale_filter == name
    assert ("upscale_filter" in record.model_dump(mode="json")["video"]) == (name == "lanczos")
    again = studio.reproduce(longer.film, out=studio.path(f"{name} again"))
    assert again.differing == ()
    assert frames_of(again.result.provenance) == frames_of(record)
    assert [scene.packets_sha256 for scene in again.result.provenance.scenes] == [
        scene.packets_sha256 for scene in record.scenes
    ]


def test_a_smooth_film_has_the_frames_of_a_hard_one(studio: Studio) -> None:
    films: dict[str, Path] = {}
    for name in ("lanczos", "nearest"):
        video = {"upscale": {"factor": 4, "filter": name}}
        films[name] = studio.generate(1, name=f"same {name}", video=video).film
    smooth, hard = (read_film(films[name]) for name in ("lanczos", "nearest"))
    assert smooth.provenance is not None
    assert hard.provenance is not None
    assert smooth.provenance.frames_sha256 == hard.provenance.frames_sha256
    assert films["lanczos"].read_bytes() != films["nearest"].read_bytes()
