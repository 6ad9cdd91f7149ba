from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from m2d.errors import BackendUnavailable, CheckpointError
from m2d.training.muon import Muon, orthogonalize
from m2d.training.optim import (
    AveragedModel,
    ModelOptimizer,
    is_block_matrix,
    learning_rate_scale,
    schedule_warnings,
)
from m2d.training.recipe_parts import OptimizerRecipe, ScheduleRecipe


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    for result in (orthogonalize(matrices), orthogonalize(matrices.mT)):
        values = torch.linalg.svdvals(result)
        # Five steps bring all but the smallest singular values of a random matrix into about [0.7, 1.2].
        assert 0.3 < float(values.min()) <= float(values.max()) < 1.3


def test_muon_moves_as_torchs_own_but_for_its_rounding() -> None:
    draw = torch.Generator().manual_seed(1)
    start, grads = torch.randn(16, 32, generator=draw), torch.randn(4, 16, 32, generator=draw)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = Muon([ours], lr=0.01, momentum=0.9, weight_decay=0.1, compute_dtype=torch.bfloat16)
    reference = torch.optim.Muon(
        [theirs], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    for grad in grads:
        ours.grad, theirs.grad = grad.clone(), grad.clone()
        muon.step()
        reference.step()  # type: ignore[no-untyped-call]  # torch leaves its Muon unannotated
    moved, difference = (theirs - start).norm(), (ours - theirs).norm()
    # bfloat16 keeps 8 bits; the two orders of operations differ by a few of its roundings.
    assert float((difference / moved).detach()) < 0.02


def test_muon_refuses_vectors() -> None:
    with pytest.raises(ValueError, match=r"matrices only, got a weight of shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)


def test_only_attention_and_feed_forward_matrices_of_blocks_are_block_matrices(
    make_model: Callable[[], nn.Module],
) -> None:
    kinds = {name.split(".", 2)[2] for name, p in make_model().named_parameters() if is_block_matrix(name, p)}
    assert kinds == {
        *(f"attn1.to_{part}.weight" for part in "qkv"),
        "attn1.to_out.0.weight",
        "ff.net.0.proj.weight",
        "ff.net.2.weight",
    }


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [
        ("constant", 0, 0.1),
        ("constant", 9, 1.0),
        ("constant", 99, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.55),
        ("cosine", 100, 0.1),
        ("wsd", 80, 1.0),
        ("wsd", 90, 0.55),
        ("wsd", 100, 0.1),
        ("wsd", 150, 0.1),
    ],
)
def test_learning_rates_follow_the_schedule(name: str, step: int, expected: float) -> None:
    schedule = ScheduleRecipe.model_validate(
        {"name": name, "warmup_steps": 10, "decay_fraction": 0.2, "final_fraction": 0.1}
    )
    assert learning_rate_scale(schedule, step=step, num_steps=100) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("setting", "field"),
    [
        ({"betas": (0.9, 1.0)}, ("betas", 1)),
        ({"betas": (-0.1, 0.9)}, ("betas", 0)),
        ({"lr": 1e300}, ("lr",)),
        ({"weight_decay": 1e300}, ("weight_decay",)),
        ({"eps": 1e300}, ("eps",)),
        ({"eps": 1e-300}, ("eps",)),
        ({"momentum": 1.0}, ("momentum",)),
        ({"grad_clip": 1e-300}, ("grad_clip",)),
    ],
)
def test_what_no_optimizer_can_compute_with_is_refused(
    setting: dict[str, object], field: tuple[object, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        OptimizerRecipe.model_validate({"name": "adamw", "lr": 1e-3} | setting)
    assert [problem["loc"] for problem in caught.value.errors()] == [field]


@pytest.mark.parametrize(
    "setting",
    [
        {"lr": 1000.0, "weight_decay": 1000.0, "grad_clip": 1e30},
        {"eps": 1e-30, "betas": (0.0, 0.0), "grad_clip": 1e-30},
        {"eps": 1.0, "betas": (1 - 1e-16, 1 - 1e-16)},
    ],
)
def test_what_a_recipe_may_ask_for_can_be_computed(
    setting: dict[str, object], make_model: Callable[[], nn.Module]
) -> None:
    model = make_model()
    recipe = OptimizerRecipe.model_validate({"name": "muon", "lr": 1e-3, "matrix_lr": 1000.0} | setting)
    optimizer = ModelOptimizer(model, recipe)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step(rate_scale=1.0)
    assert all(bool(weight.isfinite().all()) for weight in model.parameters())


def test_a_training_that_ends_in_its_warm_up_is_told() -> None:
    schedule = ScheduleRecipe(warmup_steps=100)
    (warning,) = schedule_warnings(schedule, num_steps=1)
    assert "schedule.warmup_steps: 100, but steps is 1: the learning rate ends at 0.01 of opt" in warning
    assert schedule_warnings(schedule, num_steps=100) == []


def test_an_optimizers_state_for_another_model_is_refused(make_model: Callable[[], nn.Module]) -> None:
    optimizer = ModelOptimizer(make_model(), OptimizerRecipe(name="adamw", lr=1e-3))
    with pytest.raises(CheckpointError, match=r"'proj_out.weight/exp_avg' of shape \(3,\) fits no weight"):
        optimizer.load_state_tensors([("proj_out.weight/exp_avg", torch.zeros(3))])
    with pytest.raises(CheckpointError, match="'nowhere/exp_avg'"):
        optimizer.load_state_tensors([("nowhere/exp_avg", torch.zeros(3))])


@pytest.mark.parametrize(
    ("part", "value", "complaint"),
    [
        ("exp_avg", torch.full((2, 2), torch.nan), "is NaN or infinite in 4 of 4 values"),
        ("exp_avg", torch.zeros(2, 2, dtype=torch.int64), "is int64, not float32"),
        ("exp_avg", torch.zeros(()), r"of shape \(\) fits no weight"),
        ("exp_avg_sq", torch.full((2, 2), -1.0), "is less than zero"),
        ("step", torch.tensor(-1.0), "is less than zero"),
        ("step", torch.tensor(torch.inf), "is NaN or infinite"),
        ("step", torch.tensor(0.5), "is 0.5, no number of steps"),
        ("step", torch.zeros(2, 2), r"of shape \(2, 2\) fits no weight"),
        ("step", None, "optimizer state of 'weight': step missing or extra"),
        ("other", torch.zeros(2, 2), "optimizer state of 'weight': other missing or extra"),
    ],
)
def test_a_state_that_no_optimizer_reaches_is_refused(
    part: str, value: torch.Tensor | None, complaint: str
) -> None:
    optimizer = ModelOptimizer(nn.Linear(2, 2, bias=False), OptimizerRecipe(name="adamw", lr=1e-3))
    sound = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)}
    changed = {name: tensor for name, tensor in {**sound, part: value}.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=complaint):
        optimizer.load_state_tensors((f"weight/{name}", tensor) for name, tensor in changed.items())


def test_the_average_follows_quickly_at_first_and_slowly_later() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AveragedModel(model, decay=0.9)
    nn.init.ones_(model.weight)
    average.update(step=0)
    assert average.model.get_parameter("weight").item() == pytest.approx(0.9)
    average.update(step=1000)
    assert average.model.get_parameter("weight").item() == pytest.approx(0.91)


def test_eight_bit_adamw_without_cuda_says_what_to_do(make_model: Callable[[], nn.Module]) -> None:
    with pytest.raises(BackendUnavailable, match="adamw8bit needs device: cuda, the weights are on cpu; use"):
        ModelOptimizer(make_model(), OptimizerRecipe(name="adamw8bit", lr=1e-3))


def test_weights_that_do_not_move_are_not_averaged() -> None:
    model = nn.Linear(1, 1)
    model.bias.requires_grad_(False)
    nn.init.zeros_(model.bias)
    average = AveragedModel(model, decay=0.9)
    nn.init.ones_(model.bias)
    average.update(step=0)
    assert average.model.get_parameter("bias").item() == 0.0
