from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from m2d.diffusion.noise import generator
from m2d.puppet.attribute_classifier import AttributeClassifier, Reading
from m2d.puppet.labels import PROMPTED_CLASSES, UNPROMPTED_CLASSES, UNPROMPTED_RANGES
from m2d.puppet.training import attribute_classifier as training
from m2d.puppet.training.attribute_classifier import classifier_accuracy, classifier_fit
from tests.m2d.puppet.training.tiny_helpers import classifier_recipe, loss_left

RECIPE = classifier_recipe()


@pytest.fixture(autouse=True)
def few_held_out_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_NUM_HELD_OUT", 24)


def test_a_step_is_always_the_same_and_reaches_every_weight(tmp_path: Path) -> None:
    fit = classifier_fit(RECIPE, tmp_path)
    loss = fit.loss_at(2)
    assert fit.loss_at(2).item() == loss.item()
    assert fit.loss_at(3).item() != loss.item()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    assert not [name for name, weight in fit.model.named_parameters() if weight.grad is None]


def test_a_reader_of_larger_films_learns_from_them_as_it_will_read_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    films = {"num_frames": 9, "height": 64, "width": 64}
    recipe = classifier_recipe(films=films)
    seen = []

    def see(frames_BPCHW: torch.Tensor, **_: object) -> torch.Tensor:
        seen.append(frames_BPCHW)
        return frames_BPCHW

    monkeypatch.setattr(training, "_weather", see)
    classifier_fit(recipe, tmp_path).loss_at(0)
    clips = training.draw_clips(seed=recipe.seed, step=0, count=recipe.batch_size)
    # Every other frame, and the mean of every four pixels.
    rendered = training.render_clips(clips, **films)[:, ::2]
    means = rendered.unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).mean((-1, -3))
    assert torch.allclose(seen[0], means, atol=1e-6)


def test_a_share_of_each_batch_shows_other_moments_of_its_actions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = classifier_recipe(other_moments=0.5)
    seen = []
    monkeypatch.setattr(training, "_weather", lambda frames, **_: seen.append(frames) or frames)
    fit = classifier_fit(recipe, tmp_path)
    fit.loss_at(0)
    fit.loss_at(0)
    clips = training.draw_clips(seed=recipe.seed, step=0, count=recipe.batch_size)
    whole = training.render_clips(clips, num_frames=5, height=32, width=32)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0][4:], whole[4:])
    # Every clip keeps its stage and cast, and moves in another way if it moves.
    assert (seen[0][:4] != whole[:4]).any()
    assert float((seen[0][:4] - whole[:4]).abs().mean()) < 0.05


def test_the_accuracy_on_other_moments_is_reported_beside_that_on_scenes() -> None:
    reader = AttributeClassifier(num_frames=5, height=32, width=32)
    figures = classifier_accuracy(reader, classifier_recipe(other_moments=0.5))
    own = {name for name in figures if not name.startswith("other_moments.")}
    assert {name.removeprefix("other_moments.") for name in figures.keys() - own} == own


def test_films_that_do_not_shrink_to_the_readers_size_are_refused() -> None:
    with pytest.raises(
        ValidationError, match="films: 9 frames of 64x48 cannot be shrunk to 5 frames of 32x32"
    ):
        classifier_recipe(films={"num_frames": 9, "height": 48, "width": 64})


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    assert loss_left(classifier_fit(RECIPE, tmp_path), lr=3e-3, steps=12) < 0.8


def test_the_accuracy_of_a_perfect_reading_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = training.draw_clips(seed=training._HELD_OUT_SEED, step=0, count=24)
    answers = Reading(classes=training.class_labels(clips), numbers=training.unprompted_numbers(clips))
    reader = AttributeClassifier(num_frames=5, height=32, width=32)
    monkeypatch.setattr(reader, "read", lambda _: answers)
    figures = classifier_accuracy(reader, RECIPE)
    assert figures.keys() == (
        PROMPTED_CLASSES.keys() | UNPROMPTED_CLASSES.keys() | {f"{name}.error" for name in UNPROMPTED_RANGES}
    )
    for name, figure in figures.items():
        assert figure == (0.0 if name.endswith(".error") else 1.0)


def test_evaluating_leaves_a_reader_in_training_as_it_was() -> None:
    reader = AttributeClassifier(num_frames=5, height=32, width=32).train()
    before = {key: value.clone() for key, value in reader.state_dict().items()}
    classifier_accuracy(reader, RECIPE)
    assert reader.training
    assert all(torch.equal(value, before[key]) for key, value in reader.state_dict().items())


def test_weather_changes_every_clip_differently_but_never_much() -> None:
    frames_BPCHW = torch.full((6, 2, 3, 16, 16), 0.5)
    changed = training._weather(frames_BPCHW, draw=generator(1, purpose="test"))
    assert changed.shape == frames_BPCHW.shape
    assert 0.0 <= float(changed.min()) < float(changed.max()) <= 1.0
    shifts_B = (changed - frames_BPCHW).mean((1, 2, 3, 4))
    assert len(set(shifts_B.tolist())) == 6
    # 7 % brightness and 0.05 of colour, around noise that averages out.
    assert float(shifts_B.abs().max()) < 0.5 * 0.07 + 0.05 + 0.01


def test_weather_keeps_clips_apart() -> None:
    frames_BPCHW = torch.zeros(2, 1, 3, 8, 8)
    frames_BPCHW[1] = 1.0
    changed = training._weather(frames_BPCHW, draw=generator(2, purpose="test"))
    assert float(changed[0].mean()) < 0.2
    assert float(changed[1].mean()) > 0.8
