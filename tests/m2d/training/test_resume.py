from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from m2d.errors import CheckpointError
from m2d.progress import SilentReporter
from m2d.training.optim import AveragedModel, ModelOptimizer, learning_rate_scale
from m2d.training.processes import ALONE
from m2d.training.recipe import TrainingRecipe
from m2d.training.recipe_parts import OptimizerRecipe
from m2d.training.resume import changes, differences, resume_latest
from m2d.training.state import TrainState, save_checkpoint

MakeRecipe = Callable[..., TrainingRecipe]


def _facts(recipe: TrainingRecipe, **changes: Any) -> dict[str, Any]:
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "transformer": {"num_layers": 2, "patch_size": 2},
        "stories": "a" * 64,
        "layout": "b" * 64,
        "versions": {"torch": "2", "num_threads": "1", "num_processes": "1"},
        "step": 5,
    }
    return {**facts, **changes}


VIDEOS = {"source": "films/sft.json", "held_out": 4, "workers": 0}


@pytest.mark.parametrize(
    "free",
    [
        {"title": "another name"},
        {"model": "moved/elsewhere", "init": "moved/elsewhere", "transformer": None},
        {"data": {**VIDEOS, "workers": 8, "time_limit_s": 60.0, "max_rejected": 0.5}},
        {"gradient_checkpointing": True},
        {"checkpoint": {"every_steps": 10, "every_s": 9.0, "keep": 1}},
        {"evaluation": {"every_steps": 1, "num_samples": 1}, "log_every_steps": 1},
        {"validation": {"stories": ["story.yaml"]}, "trackers": ["tensorboard"]},
        {"export_dtype": "float32"},
    ],
    ids=lambda free: next(iter(free)),
)
def test_what_decides_no_weight_may_change_and_is_not_worth_a_word(
    make_recipe: MakeRecipe, free: dict[str, Any]
) -> None:
    saved, ours = _facts(make_recipe(data=VIDEOS)), _facts(make_recipe(**{"data": VIDEOS, **free}))
    assert differences(saved, ours) == []
    assert changes(saved, ours) == []


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ({"steps": 99}, []),
        # The last quarter of the steps cools down: step 5 is not in it of eight steps, and is of six.
        ({"steps": 6}, ["steps was 8 and is 6, which changes the learning rate of past step 5"]),
        (
            {"schedule": {"name": "wsd", "warmup_steps": 4}},
            ["schedule.warmup_steps was 2 and is 4, which changes the learning rate of past step 0"],
        ),
        ({"accumulate": 2}, ["accumulate was 1 and is 2"]),
    ],
)
def test_what_may_change_on_purpose_is_told_where_steps_done_would_have_been_others(
    make_recipe: MakeRecipe, free: dict[str, Any], expected: list[str]
) -> None:
    saved, ours = _facts(make_recipe(), step=6), _facts(make_recipe(**free))
    assert differences(saved, ours) == []
    assert changes(saved, ours) == expected


def test_another_machines_versions_are_told(make_recipe: MakeRecipe) -> None:
    saved = _facts(make_recipe(), versions={"torch": "2", "num_threads": "8"})
    (told,) = changes(saved, _facts(make_recipe()))
    assert told.startswith("the checkpoint was made with {'torch': '2', 'num_threads': '8'}, this is")


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"batch_size": 8}, "batch_size was 4 and is 8"),
        ({"objective": {"caption_dropout": 0.5}}, "objective.caption_dropout was 0.1 and is 0.5"),
        ({"optimizer": {"name": "adamw", "lr": 1e-3}}, "optimizer.name was 'muon' and is 'adamw'"),
        ({"mask": "causal"}, "mask was 'mask2dit' and is 'causal'"),
        ({"seed": 6}, "seed was 5 and is 6"),
        ({"precision": "bfloat16"}, "precision was 'float32' and is 'bfloat16'"),
        ({"compile": True}, "compile was False and is True"),
        ({"device": "cuda"}, "device was 'cpu' and is 'cuda'"),
        ({"ema_decay": 0.5}, "ema_decay was 0.999 and is 0.5"),
        ({"lora": {"rank": 4}, "optimizer": {"name": "adamw", "lr": 1e-3}}, "lora was None and is {"),
        ({"stage": "pretrain", "objective": {}}, "stage was 'sft' and is 'pretrain'"),
        ({"data": {**VIDEOS, "held_out": 5}}, "data.held_out was 4 and is 5"),
        ({"data": {**VIDEOS, "variants": 2}}, "data.variants was 1 and is 2"),
        ({"data": {**VIDEOS, "sampling": "official"}}, "data.sampling was 'fps' and is 'official'"),
        ({"data": {**VIDEOS, "seed": 2}}, "data.seed was 1 and is 2"),
    ],
)
def test_another_recipe_names_the_field(
    make_recipe: MakeRecipe, other: dict[str, Any], expected: str
) -> None:
    found = differences(_facts(make_recipe(data=VIDEOS)), _facts(make_recipe(**{"data": VIDEOS, **other})))
    assert any(each.startswith(expected) for each in found)


def test_another_model_or_other_stories_are_named(make_recipe: MakeRecipe) -> None:
    saved = _facts(make_recipe())
    ours = _facts(make_recipe(), transformer={"num_layers": 3, "patch_size": 2}, stories="c" * 64)
    assert differences(saved, ours) == [
        "transformer.num_layers was 2 and is 3",
        "stories was aaaaaaaaaaaa and is cccccccccccc (other clips, captions, VAE or text encoder)",
    ]


def test_another_noise_schedule_is_another_training(make_recipe: MakeRecipe) -> None:
    saved, ours = (_facts(make_recipe(), scheduler={"snr_shift_scale": shift}) for shift in (1.0, 3.0))
    assert differences(saved, ours) == ["scheduler.snr_shift_scale was 1.0 and is 3.0"]


def test_a_checkpoint_from_before_the_scheduler_was_written_down_is_this_trainings(
    make_recipe: MakeRecipe,
) -> None:
    assert differences(_facts(make_recipe()), _facts(make_recipe(), scheduler={"beta_start": 1e-4})) == []


def test_a_checkpoint_from_before_a_field_was_added_is_this_trainings(make_recipe: MakeRecipe) -> None:
    saved = _facts(make_recipe())
    for field in ("accumulate", "gradient_checkpointing", "precision"):
        del saved["recipe"][field]
    assert differences(saved, _facts(make_recipe())) == []


def test_the_first_other_rate_is_found_without_counting_the_steps(make_recipe: MakeRecipe) -> None:
    schedules = [
        (steps, {"name": name, "warmup_steps": warmup, "decay_fraction": decay})
        for name in ("constant", "cosine", "wsd")
        for steps, warmup, decay in ((40, 3, 0.5), (41, 3, 0.25), (30, 5, 0.25), (30, 60, 1.0))
    ]
    recipes = [make_recipe(steps=steps, schedule=schedule) for steps, schedule in schedules]
    for old, new in itertools.product(recipes, recipes):
        facts = [_facts(recipe, step=50) for recipe in (old, new)]
        rates = [
            [learning_rate_scale(recipe.schedule, step=step, num_steps=recipe.steps) for step in range(50)]
            for recipe in (old, new)
        ]
        first = next((step for step in range(50) if rates[0][step] != rates[1][step]), None)
        expected = [] if first is None else [f"which changes the learning rate of past step {first}"]
        assert [each.rpartition(", ")[2] for each in changes(*facts)] == expected
    long = [make_recipe(steps=steps, schedule=schedules[0][1]) for steps in (10**9, 10**9 - 1)]
    assert changes(*(_facts(recipe, step=10**9) for recipe in long)) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"stories": 1},
        {"layout": None},
        {"versions": "x"},
        {"versions": {"torch": 2}},
        {"recipe": {"steps": 2}},
    ],
)
def test_facts_of_other_types_are_refused_whatever_their_digest(
    make_recipe: MakeRecipe, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    facts = {**_facts(make_recipe()), "transformer": None, **wrong}
    model = nn.Linear(1, 1)
    optimizer = ModelOptimizer(model, OptimizerRecipe(name="adamw", lr=1e-3))
    state = TrainState(model=model, average=AveragedModel(model, decay=0.9), optimizer=optimizer, step=5)
    save_checkpoint(tmp_path, state, facts=facts, keep=1)
    with pytest.raises(CheckpointError, match=f"its state lacks {next(iter(wrong))}"):
        resume_latest(
            tmp_path, state, facts=_facts(make_recipe()), processes=ALONE, reporter=SilentReporter()
        )
