from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from m2d.errors import CheckpointError
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.recipe_parts import OptimizerRecipe
from m2d.training.start import Start, build_transformer, read_start
from m2d.training.state import TrainState, save_checkpoint

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 8,
    "num_layers": 2,
    "patch_size": 2,
    "max_text_seq_length": 4,
    "use_rotary_positional_embeddings": True,
}


def _save(run: Path, model: nn.Module, facts: dict[str, object]) -> TrainState:
    optimizer = ModelOptimizer(model, OptimizerRecipe(name="adamw", lr=1e-3))
    state = TrainState(model=model, average=AveragedModel(model, decay=0.9), optimizer=optimizer, step=3)
    with torch.no_grad():
        for weight in state.average.model.parameters():
            weight.add_(1.0)
    save_checkpoint(run, state, facts=facts, keep=1)
    return state


def test_random_weights_depend_on_the_seed_alone_and_every_block_starts_as_the_identity() -> None:
    torch.manual_seed(1)
    first = build_transformer(Start(CONFIG, None), seed=5)
    torch.manual_seed(2)
    second = build_transformer(Start(CONFIG, None), seed=5)
    other = build_transformer(Start(CONFIG, None), seed=6)
    name = "transformer_blocks.0.attn1.to_q.weight"
    assert torch.equal(first.get_parameter(name), second.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), other.get_parameter(name))
    for name in ("transformer_blocks.1.norm1.linear.weight", "norm_out.linear.bias", "proj_out.weight"):
        assert not first.get_parameter(name).any()


def test_a_run_folder_gives_its_averaged_weights(tmp_path: Path, make_model: Callable[[], nn.Module]) -> None:
    state = _save(tmp_path, make_model(), {"transformer": CONFIG})
    model = build_transformer(read_start(tmp_path), seed=0)
    expected = state.average.model.get_parameter("proj_out.weight")
    assert torch.equal(model.get_parameter("proj_out.weight"), expected)
    assert model.get_parameter("proj_out.weight").requires_grad


def test_weights_of_another_size_are_refused(tmp_path: Path, make_model: Callable[[], nn.Module]) -> None:
    _save(tmp_path, make_model(), {"transformer": {**CONFIG, "num_layers": 3}})
    with pytest.raises(CheckpointError, match=r"(?s)weights do not fit its config: .*transformer_blocks\.2"):
        build_transformer(read_start(tmp_path), seed=0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_layers": 10**18}, "num_layers: 1000000000000000000 must be a whole number"),
        ({"num_layers": 256}, "describes a model of more than .* parameters, the weights hold"),
        (
            {"use_rotary_positional_embeddings": False, "sample_frames": 4096, "sample_height": 500},
            "need a table of",
        ),
    ],
)
def test_a_run_whose_config_is_far_larger_than_its_weights_is_refused_before_a_model_is_built(
    tmp_path: Path, make_model: Callable[[], nn.Module], change: dict[str, object], complaint: str
) -> None:
    sample = {"sample_frames": 9, "sample_height": 8, "sample_width": 500}
    _save(tmp_path, make_model(), {"transformer": {**CONFIG, **sample, **change}})
    with pytest.raises(CheckpointError, match=complaint):
        read_start(tmp_path)


def test_a_run_that_trained_no_transformer_is_refused(tmp_path: Path) -> None:
    _save(tmp_path, nn.Linear(1, 1), {})
    with pytest.raises(CheckpointError, match="is no transformer's training"):
        read_start(tmp_path)


def test_a_run_without_a_sound_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="has no checkpoint that verifies; train that run first"):
        read_start(tmp_path)


def test_a_folder_without_a_transformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither a run folder nor a model folder"):
        read_start(tmp_path / "nowhere")
