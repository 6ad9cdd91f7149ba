"""Problems of the command line are shown by their flags."""

from __future__ import annotations

import pytest

from m2d.cli.remedies import describe, flag_of, name_flag_in
from m2d.errors import RecipeError
from m2d.recipe.overrides import COMMAND_LINE, Overrides, apply_overrides
from m2d.recipe.places import Places
from m2d.recipe.schema import Recipe, Scene

RECIPE = Recipe(title="x", scenes=(Scene(prompt="a"),))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"seed": -1}, "--seed: must be at least 0, got -1"),
        ({"num_inference_steps": 0}, "--steps: must be at least 1, got 0"),
        ({"speed": "warp"}, "--speed: 'warp' is not known; use one of 'exact', 'balanced', 'fast'"),
        ({"backend": "../x"}, "--backend: '../x' is no backend's name, such as eager; use a-z, 0-9, _ and -"),
        ({"device": "gpu"}, "--device: 'gpu' is not known; use cpu, cuda or cuda:N"),
        ({"dtype": "fp16"}, "--dtype: 'fp16' is not known; use one of 'float32', 'bfloat16', 'float16'"),
    ],
)
def test_an_override_is_blamed_by_its_flag(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match="command line") as error:
        apply_overrides(RECIPE, Overrides(**overrides))  # type: ignore[arg-type]  # one field a case
    assert describe(error.value) == [f"command line: {message}"]


def test_only_fields_of_the_command_line_become_flags() -> None:
    key_path = ("scenes", 1, "prompt")
    given = [places.problem(key_path, "is empty") for places in (COMMAND_LINE, Places(path="story.yaml"))]
    assert describe(RecipeError(given)) == [
        "command line: --prompt 2: is empty",
        "story.yaml: scenes[1].prompt: is empty",
    ]
    assert [name_flag_in(str(problem)) for problem in given] == ["--prompt 2: is empty", str(given[1])]
    assert flag_of("video.fps") == "video.fps"
