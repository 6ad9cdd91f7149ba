"""Adapters: a start that changes nothing, a file that diffusers loads, weights that can be merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.lora import FILE, add_lora, lora_weights, merge_lora, save_lora
from m2d.training.recipe_parts import LoraRecipe
from tests.m2d.training.conftest import tiny_model

LAYOUT = SceneLayout.build("mask2dit", text_tokens=[4, 4], latent_frames=[2, 2], tokens_per_frame=4)


@pytest.fixture
def make_model() -> Callable[[], SceneTransformer]:
    return tiny_model


@torch.no_grad()
def velocity(model: SceneTransformer) -> Tensor:
    draws = torch.Generator().manual_seed(3)
    latents_BFCHW = torch.randn(1, 4, 4, 4, 4, generator=draws)
    embeds_BLD = torch.randn(1, 8, 8, generator=draws)
    predicted: Tensor = model(latents_BFCHW, embeds_BLD, torch.tensor([[0, 500]]), layout=LAYOUT)
    return predicted


def moved(model: SceneTransformer, recipe: LoraRecipe) -> SceneTransformer:
    """Attach adapters and move them off their start."""
    add_lora(model, recipe)
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape, generator=draws))
    return model


@pytest.mark.parametrize("part", ["attention", "feed_forward", "modulation"])
def test_new_adapters_change_nothing_and_only_they_can_move(
    make_model: Callable[[], SceneTransformer], part: str
) -> None:
    model = make_model()
    before = velocity(model)
    add_lora(model, LoraRecipe.model_validate({"rank": 2, "parts": [part]}))
    assert torch.equal(velocity(model), before)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)


def test_the_same_seed_gives_the_same_adapters(make_model: Callable[[], SceneTransformer]) -> None:
    first, second, third = make_model(), make_model(), make_model()
    for model, seed in ((first, 1), (second, 1), (third, 2)):
        add_lora(model, LoraRecipe(rank=2), seed=seed)
    assert all(torch.equal(value, lora_weights(second)[name]) for name, value in lora_weights(first).items())
    assert any(
        not torch.equal(value, lora_weights(third)[name]) for name, value in lora_weights(first).items()
    )


def test_the_file_is_one_that_diffusers_loads(
    make_model: Callable[[], SceneTransformer], tmp_path: Path
) -> None:
    model = moved(make_model(), LoraRecipe(rank=2, alpha=6))
    assert save_lora(model, tmp_path) == tmp_path / FILE
    other = make_model()
    before = velocity(other)
    other.load_lora_adapter(str(tmp_path), weight_name=FILE, prefix="transformer")
    assert torch.equal(velocity(other), velocity(model))
    assert not torch.equal(velocity(other), before)


def test_merged_weights_compute_the_same_under_stock_names(
    make_model: Callable[[], SceneTransformer],
) -> None:
    names = list(make_model().state_dict())
    model = moved(make_model(), LoraRecipe(rank=2, parts=("attention", "feed_forward")))
    adapted = velocity(model)
    merge_lora(model)
    assert list(model.state_dict()) == names
    # The update is added to the weight instead of to the product: float32 rounding of values around 1.
    torch.testing.assert_close(velocity(model), adapted, rtol=0, atol=1e-5)
