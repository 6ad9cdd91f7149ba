"""What a backend may be asked for."""

from typing import get_args

import pytest

from m2d.backend import BackendOptions, DTypeName
from m2d.errors import InputError
from m2d.recipe.backend_choice import DtypeName


def test_an_unknown_dtype_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="dtype: got 'int8', allowed: float32, bfloat16, float16"):
        BackendOptions(dtype="int8")  # type: ignore[arg-type]  # the point of the test


@pytest.mark.parametrize("targets", [(), (1, 0), (1, 1)])
def test_targets_are_ascending_scenes(targets):
    with pytest.raises(InputError, match=r"targets: got \(.*ascending"):
        BackendOptions(targets=targets)


def test_recipes_offer_exactly_the_dtypes_a_backend_takes():
    assert get_args(DtypeName) == get_args(DTypeName)
