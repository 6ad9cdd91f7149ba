from __future__ import annotations

from pathlib import Path

import torch

from m2d.puppet.labels import PROMPTED_CLASSES
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.training import text_encoder as training
from m2d.puppet.training.text_encoder import CaptionClassifier, text_encoder_fit
from tests.m2d.puppet.training.tiny_helpers import loss_left, text_recipe

RECIPE = text_recipe()


def test_every_token_is_asked_about_every_prompted_property() -> None:
    model = CaptionClassifier(RECIPE)
    scores = model(torch.zeros(2, 36, dtype=torch.long))
    for name, size in PROMPTED_CLASSES.items():
        assert scores[name].shape == (2, size, 36)


def test_a_step_is_always_the_same_and_reaches_every_weight(tmp_path: Path) -> None:
    fit = text_encoder_fit(RECIPE, tmp_path)
    loss = fit.loss_at(2)
    assert fit.loss_at(2).item() == loss.item()
    assert fit.loss_at(3).item() != loss.item()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    assert not [name for name, weight in fit.model.named_parameters() if weight.grad is None]


def test_captions_are_padded_and_never_cut() -> None:
    tokenizer = build_tokenizer(max_text_tokens=36)
    batch = training._Batch(RECIPE, tokenizer, seed=1, step=0)
    assert batch.tokens_BL.shape == (8, 36)
    ends_B = (batch.tokens_BL == tokenizer.eos_token_id).sum(1)
    assert ends_B.tolist() == [1] * 8
    assert batch.labels.keys() == PROMPTED_CLASSES.keys()


def test_a_few_steps_teach_one_batch(tmp_path: Path) -> None:
    assert loss_left(text_encoder_fit(text_recipe(batch_size=2), tmp_path), lr=3e-2, steps=40) < 0.3


def test_evaluation_tells_the_accuracy_per_property(tmp_path: Path) -> None:
    fit = text_encoder_fit(RECIPE, tmp_path)
    figures = fit.evaluate(fit.model)["accuracy"]
    assert figures.keys() == PROMPTED_CLASSES.keys()
    assert all(0.0 <= figure <= 1.0 for figure in figures.values())
