from __future__ import annotations

from pathlib import Path

import pytest
import torch

from m2d.families.loading import load_text
from m2d.training.frozen import LateTextEncoder
from tests.m2d.model.tiny_model import MAX_TEXT_TOKENS, TEXT_WIDTH, build_tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


def test_it_is_in_memory_only_while_prompts_are_encoded(model: Path) -> None:
    text = LateTextEncoder(model, max_tokens=MAX_TEXT_TOKENS, device=CPU, dtype=torch.float32)
    plain = load_text(model, device=CPU, dtype=torch.float32, max_tokens=MAX_TEXT_TOKENS)
    assert (text.width, text.count_tokens("park")) == (TEXT_WIDTH, plain.count_tokens("park"))
    assert not text.is_loaded
    for _ in range(2):
        assert torch.equal(text.encode(["park at noon"]), plain.encode(["park at noon"]))
        assert text.is_loaded
        text.release()
        assert not text.is_loaded


def test_a_released_encoder_frees_its_weights(model: Path) -> None:
    text = LateTextEncoder(model, max_tokens=MAX_TEXT_TOKENS, device=CPU, dtype=torch.float32)
    text.encode(["park"])
    assert text._loaded is not None
    encoder = text._loaded.model
    text.release()
    assert {weight.device.type for weight in encoder.parameters()} == {"meta"}
