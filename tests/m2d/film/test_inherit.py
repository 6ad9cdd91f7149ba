"""What a run that goes on from a film takes over from it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from m2d.errors import InputError
from m2d.families.opening import BUILTIN_MODELS, BUILTIN_PUPPET
from m2d.film.inherit import model_of
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
