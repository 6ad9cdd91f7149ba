from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from m2d.training.recipe import TrainingRecipe
from m2d.training.resume import differences

MakeRecipe = Callable[..., TrainingRecipe]


def _facts(recipe: TrainingRecipe, **changes: Any) -> dict[str, Any]:
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "transformer": {"num_layers": 2, "patch_size": 2},
        "stories": "a" * 64,
        "layout": "b" * 64,
    }
    return {**facts, **changes}


def test_what_may_change_makes_no_other_training(make_recipe: MakeRecipe) -> None:
    longer = make_recipe(title="longer", steps=99, accumulate=2, checkpoint={"keep": 1})
    assert differences(_facts(make_recipe()), _facts(longer)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"batch_size": 8}, "batch_size was 4 and is 8"),
        ({"objective": {"caption_dropout": 0.5}}, "objective.caption_dropout was 0.1 and is 0.5"),
        ({"optimizer": {"name": "adamw", "lr": 1e-3}}, "optimizer.name was 'muon' and is 'adamw'"),
        ({"mask": "causal"}, "mask was 'mask2dit' and is 'causal'"),
    ],
)
def test_another_recipe_names_the_field(
    make_recipe: MakeRecipe, changes: dict[str, Any], expected: str
) -> None:
    assert expected in differences(_facts(make_recipe()), _facts(make_recipe(**changes)))


def test_another_model_or_other_stories_are_named(make_recipe: MakeRecipe) -> None:
    saved = _facts(make_recipe())
    ours = _facts(make_recipe(), transformer={"num_layers": 3, "patch_size": 2}, stories="c" * 64)
    assert differences(saved, ours) == [
        "transformer.num_layers was 2 and is 3",
        "stories was aaaaaaaaaaaa and is cccccccccccc (other clips, captions, codec or text encoder)",
    ]


def test_a_checkpoint_from_before_a_field_was_added_is_this_trainings(make_recipe: MakeRecipe) -> None:
    saved = _facts(make_recipe())
    for field in ("accumulate", "gradient_checkpointing", "precision"):
        del saved["recipe"][field]
    assert differences(saved, _facts(make_recipe())) == []
