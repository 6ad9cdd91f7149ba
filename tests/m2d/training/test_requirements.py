"""The accounting against real tensors at a small size, and against known figures at CogVideoX-5B's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.lora import add_lora
from m2d.training.recipe_parts import LoraRecipe
from m2d.training.requirements import (
    Workload,
    attention_flops_per_block,
    measure_needs,
    memory_per_device,
)

SMALL = {
    "num_layers": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 8,
    "sample_width": 4,
    "sample_height": 4,
    "sample_frames": 5,
    "patch_size": 2,
    "max_text_seq_length": 4,
    "use_rotary_positional_embeddings": True,
}
FIVE_B = {
    "num_layers": 42,
    "num_attention_heads": 48,
    "attention_head_dim": 64,
    "in_channels": 16,
    "out_channels": 16,
    "text_embed_dim": 4096,
    "sample_width": 90,
    "sample_height": 60,
    "sample_frames": 49,
    "use_rotary_positional_embeddings": True,
}


def small_work(**changes: object) -> Workload:
    layout = SceneLayout.build("mask2dit", text_tokens=[4] * 3, latent_frames=[2] * 3, tokens_per_frame=4)
    work = Workload(config=SMALL, layout=layout, latent_shape=(4, 4, 4), batch_size=2, is_mixed=False)
    return replace(work, **changes)  # type: ignore[arg-type]  # fields by name


def five_b_work(**changes: object) -> Workload:
    layout = SceneLayout.build(
        "mask2dit", text_tokens=[226] * 3, latent_frames=[13] * 3, tokens_per_frame=1350
    )
    work = Workload(config=FIVE_B, layout=layout, latent_shape=(16, 60, 90), batch_size=1, is_mixed=True)
    return replace(work, **changes)  # type: ignore[arg-type]  # fields by name


def bytes_really_kept(work: Workload) -> int:
    """Run the real model with real tensors and add up what autograd holds on to, without the weights."""
    torch.manual_seed(0)
    model: SceneTransformer = SceneTransformer(**work.config)
    if work.lora is not None:
        add_lora(model, work.lora)
    own = {weight.data_ptr() for weight in model.parameters()}
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(
            torch.randn(work.batch_size, 6, 4, 4, 4),
            torch.randn(work.batch_size, 12, 8),
            torch.zeros(work.batch_size, 3, dtype=torch.int64),
            layout=work.layout,
        ).square().mean()
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


@pytest.mark.parametrize("lora", [None, LoraRecipe(rank=2)], ids=["all weights", "adapters"])
def test_activations_are_those_that_a_real_run_keeps(lora: LoraRecipe | None) -> None:
    work = small_work(lora=lora)
    expected = bytes_really_kept(work)
    found = measure_needs(work).activation_bytes(is_checkpointed=False)
    # Views of one storage may be told apart differently; a forgotten tensor of a block would be over 2 %.
    assert found == pytest.approx(expected, rel=0.02)


def test_five_b_has_its_published_size_and_the_operations_of_its_layout() -> None:
    needs = measure_needs(five_b_work())
    assert needs.num_parameters == needs.num_trained
    assert round(needs.num_parameters / 1e9, 2) == 5.57
    assert needs.tokens == 3 * 226 + 3 * 13 * 1350
    width, blocks, video, text = 48 * 64, 42, 3 * 17550, 3 * 226
    # Query, key, value and output are width x width each, feed-forward is 8 x that.
    matrices = 2 * (video + text) * 12 * width * width * blocks
    pairs = video * (video + 226) + 3 * 226 * (226 + 17550)
    assert attention_flops_per_block(five_b_work()) == 4 * pairs * width
    assert needs.flops == pytest.approx(3 * (matrices + 4 * pairs * width * blocks), rel=1e-3)


def test_adapters_move_few_weights_and_spare_the_others_gradients() -> None:
    full, adapted = measure_needs(five_b_work()), measure_needs(five_b_work(lora=LoraRecipe(rank=64)))
    # Four matrices of a block, two factors each.
    assert adapted.num_trained == 42 * 4 * 2 * 64 * 48 * 64
    assert adapted.num_parameters == full.num_parameters + adapted.num_trained
    assert adapted.flops < full.flops


def test_checkpointing_keeps_the_tokens_between_blocks_and_one_block() -> None:
    needs = measure_needs(five_b_work())
    saved = needs.activation_bytes(is_checkpointed=False) - needs.activation_bytes(is_checkpointed=True)
    assert saved == 41 * needs.block_bytes - 42 * needs.boundary_bytes
    assert needs.boundary_bytes == 53328 * 3072 * 2


def test_each_sharding_shares_out_what_it_says() -> None:
    needs = measure_needs(small_work())

    def on_device(strategy: str, num_devices: int) -> tuple[int, int, int, int]:
        memory = memory_per_device(
            needs,
            optimizer="adamw",
            strategy=strategy,  # type: ignore[arg-type]  # parametrized by hand below
            num_devices=num_devices,
            is_checkpointed=False,
        )
        assert memory.total == sum(
            (memory.weights, memory.gradients, memory.optimizer, memory.average, memory.activations)
        )
        return memory.weights, memory.gradients, memory.optimizer, memory.average

    weights = needs.num_parameters * 4
    share = -(-weights // 8)
    assert on_device("ddp", 8) == (weights, weights, 2 * weights, weights)
    assert on_device("zero2", 8) == (weights + share, share, -(-2 * weights // 8), weights)
    for strategy in ("zero3", "fsdp2"):
        assert on_device(strategy, 8) == (share, share, -(-2 * weights // 8), share)


def test_muon_keeps_one_number_for_each_weight_of_its_matrices() -> None:
    needs = measure_needs(small_work())
    # Queries, keys, values, output and twice four of feed-forward, 32 x 32 each, in four blocks.
    assert needs.num_in_matrices == 4 * 12 * 32 * 32
    memory = memory_per_device(needs, optimizer="muon", strategy="ddp", num_devices=1, is_checkpointed=False)
    assert memory.optimizer == 8 * needs.num_trained - 4 * needs.num_in_matrices
