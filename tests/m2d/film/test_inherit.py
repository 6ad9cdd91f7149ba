"""What a run that goes on from a film takes over from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from m2d.errors import InputError
from m2d.families.opening import BUILTIN_MODELS, BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.film.inherit import model_of, plan_on, validated_recipe
from m2d.recipe.overrides import Overrides
from m2d.recipe.schema import Recipe
from m2d.recipe.settings import parse_settings
from m2d.video.provenance import ModelRecord


def made_by(*names: str) -> Any:
    """A film's record, as far as its models go."""
    models = [ModelRecord(name=name, digest="0" * 64) for name in names]
    return SimpleNamespace(runs=[SimpleNamespace(model=None), *(SimpleNamespace(model=m) for m in models)])


@pytest.mark.parametrize("name", BUILTIN_MODELS)
def test_a_film_goes_on_with_the_built_in_model_that_made_its_last_scenes(name: str) -> None:
    assert model_of(made_by(BUILTIN_PUPPET, name), model=None).name == name


def test_footage_goes_on_with_the_small_one() -> None:
    assert model_of(None, model=None).name == "builtin:puppet-large"


def test_a_folder_s_film_needs_the_folder() -> None:
    with pytest.raises(InputError, match="model: missing; the film was made by the model mine"):
        model_of(made_by(BUILTIN_PUPPET, "mine"), model=None)


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (Overrides(), "bfloat16"),
        (Overrides(backend="eager"), "bfloat16"),
        (Overrides(backend="onnx"), "float32"),
        (Overrides(backend="onnx", dtype="float16"), "float16"),
    ],
)
def test_another_backend_than_the_film_s_has_a_data_type_of_its_own(given: Overrides, dtype: str) -> None:
    recipe = Recipe.model_validate(
        {"title": "film", "scenes": ("Someone waves.",), "backend": {"device": "cpu", "dtype": "bfloat16"}}
    )
    assert plan_on(recipe, resolve_model(BUILTIN_PUPPET), None, overrides=given).dtype == dtype


@pytest.mark.parametrize(
    ("texts", "dtype"),
    [
        (["backend.name=onnx"], "float32"),
        (["backend.name=onnx", "backend.dtype=bfloat16"], "bfloat16"),
        (["backend.device=cpu"], "bfloat16"),
    ],
)
def test_a_backend_that_is_set_has_a_data_type_of_its_own(texts: list[str], dtype: str) -> None:
    settings = parse_settings(texts)
    record = {
        "title": "film",
        "scenes": ["Someone waves."],
        "backend": {"device": "cpu", "dtype": "bfloat16"},
    }
    recipe = validated_recipe(record, settings=settings)
    overrides = Overrides(settings=settings)
    assert plan_on(recipe, resolve_model(BUILTIN_PUPPET), None, overrides=overrides).dtype == dtype
