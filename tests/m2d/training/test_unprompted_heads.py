from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from m2d.errors import InputError
from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.files import sha256_file
from m2d.training.log import read_log
from m2d.training.recipe import TrainingRecipe
from m2d.training.state import find_checkpoint, load_checkpoint
from m2d.training.trainer import Trainer
from m2d.training.unprompted_heads import UnpromptedHeads

MakeTrainer = Callable[..., Trainer]
MakeRecipe = Callable[..., TrainingRecipe]
WITH_HEADS = {"conditional_probability": 0.5, "unprompted_weight": 1.0}


def _digests(run: Path) -> dict[str, str]:
    path = find_checkpoint(run).path
    assert path is not None
    return {file.name: sha256_file(file) for file in path.glob("*.safetensors")}


def test_errors_are_of_size_and_eyes_at_every_token(make_model: Callable[[], SceneTransformer]) -> None:
    # Stories 0 and 1; heads that always read a size of 0.25 and odds of 3 to 1 for eyes of kind 1.
    heads = UnpromptedHeads(make_model(), torch.tensor([[0.25, 1.0], [0.75, 0.0]]))
    with torch.no_grad():
        heads.module[1].bias.copy_(torch.tensor([0.25, math.log(3)]))
    heads._keep(heads.block, (), (torch.randn(2, 4, 32), torch.randn(2, 12, 32)))
    errors_BN = heads.errors(torch.tensor([[0, 0, 1], [1, 1, 1]]))
    first, second = 0.3 * -math.log(0.75), 0.5**2 + 0.3 * -math.log(0.25)
    torch.testing.assert_close(errors_BN, torch.tensor([[first, first, second], [second] * 3]))


def test_heads_read_the_middle_block_and_add_no_weights_to_the_model(
    make_model: Callable[[], SceneTransformer],
) -> None:
    model = make_model()
    names = list(model.state_dict())
    heads = UnpromptedHeads(model, torch.ones(2, 2))
    assert list(model.state_dict()) == names
    assert heads.block is model.transformer_blocks[1]


def test_heads_learn_and_change_what_the_transformer_learns(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    make_trainer(make_recipe(steps=40, objective=WITH_HEADS), "heads").run()
    figures = [event["heads_loss"] for event in read_log(tmp_path / "heads") if event["event"] == "train"]
    # A size of 1 and eyes of kind 1 for every story are read better and better.
    assert figures[-1] < 0.2 * figures[0]
    plain, taught = (
        make_trainer(make_recipe(objective={**WITH_HEADS, "unprompted_weight": weight}), f"run {weight}")
        for weight in (0.0, 1.0)
    )
    assert plain.held_out_loss() == taught.held_out_loss()
    for trainer in (plain, taught):
        # The heads start from zero and reach the transformer in the second step.
        trainer._do_step()
        trainer._do_step()
    weights = [trainer.state.model.state_dict() for trainer in (plain, taught)]
    assert any(not torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2}, {"gradient_checkpointing": True}])
def test_an_interrupted_training_with_heads_ends_with_the_same_bits(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, object]
) -> None:
    recipe = make_recipe(objective={**WITH_HEADS, "scene_guidance": 0.5}, **changes)
    make_trainer(recipe, "straight").run()
    stopped = make_trainer(recipe, "stopped")
    for _ in range(3):
        stopped._do_step()
    stopped._save()
    resumed, path = make_trainer(recipe, "stopped"), find_checkpoint(tmp_path / "stopped").path
    assert path is not None
    load_checkpoint(path, resumed.state)
    resumed.run()
    straight, stopped_at = _digests(tmp_path / "straight"), _digests(tmp_path / "stopped")
    assert {"heads.safetensors", "heads-optimizer.safetensors"} < set(straight)
    assert straight == stopped_at


def test_gradient_checkpointing_and_accumulation_give_the_same_gradients(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe
) -> None:
    def weight(**changes: object) -> torch.Tensor:
        trainer = make_trainer(make_recipe(objective=WITH_HEADS, **changes), f"run {changes}")
        for _ in range(3):
            trainer._do_step()
        assert trainer.state.heads is not None
        return trainer.state.heads.module[1].weight.detach()

    whole = weight()
    torch.testing.assert_close(weight(gradient_checkpointing=True), whole)
    torch.testing.assert_close(weight(accumulate=2), whole)


def test_the_block_that_the_heads_read_is_not_compiled(
    make_trainer: MakeTrainer, make_recipe: MakeRecipe
) -> None:
    # Compilation itself starts with the first step.
    blocks = make_trainer(make_recipe(objective=WITH_HEADS, compile=True)).state.model.transformer_blocks
    assert [block._compiled_call_impl is None for block in blocks] == [False, True]


def test_only_the_puppet_theatre_says_what_no_prompt_names(make_recipe: MakeRecipe) -> None:
    with pytest.raises(ValidationError, match=r"objective\.unprompted_weight: only builtin:puppet says"):
        make_recipe(objective=WITH_HEADS, data={"source": "films.jsonl"})


def test_heads_train_in_one_process(make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(objective=WITH_HEADS)
    assert recipe.microbatch(1) == 4
    with pytest.raises(InputError, match=r"objective\.unprompted_weight: is for a training in one process"):
        recipe.microbatch(2)
