from __future__ import annotations

import pytest
import torch

from m2d.layout import SceneLayout
from m2d.model import streams
from m2d.model.context_cache import keep_context
from m2d.model.transformer import SceneTransformer
from tests.m2d.model.test_transformer import MASKS, make_inputs, make_model, max_error, story

TOLERANCE = 1e-6  # float32: the same sums in another order, outputs of about 1


@pytest.fixture
def _force_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SMALLEST_SCENE", 1)


def both_ways(
    monkeypatch: pytest.MonkeyPatch, model: SceneTransformer, layout: SceneLayout, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """The velocity scene by scene, and with all activations joined."""
    inputs = make_inputs(layout)
    found = []
    for smallest in (1, 10**9):
        monkeypatch.setattr(streams, "SMALLEST_SCENE", smallest)
        found.append(model(*inputs, layout=layout, **options))
    return found[0], found[1]


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("targets", [None, (1,), (0, 3)])
def test_scene_by_scene_equals_the_joined_form(
    monkeypatch: pytest.MonkeyPatch, mask: str, targets: tuple[int, ...] | None
) -> None:
    layout = SceneLayout.build(mask, text_tokens=[3, 1, 4, 2], latent_frames=[2, 1, 3, 2], tokens_per_frame=8)
    streamed, joined = both_ways(monkeypatch, make_model(), layout, targets=targets)
    assert joined.abs().max() > 0.1
    assert max_error(streamed, joined) <= TOLERANCE * max(1.0, joined.abs().max().item())


@torch.no_grad()
def test_a_model_without_rotary_embeddings_streams_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(use_rotary_positional_embeddings=False)
    streamed, joined = both_ways(monkeypatch, model, story())
    assert max_error(streamed, joined) <= TOLERANCE * max(1.0, joined.abs().max().item())


@torch.no_grad()
def test_kept_context_streams_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, layout = make_model(), story("causal", frames=(2, 1, 2))
    latents, prompts, timesteps = make_inputs(layout)
    timesteps[:, :2] = 0
    monkeypatch.setattr(streams, "SMALLEST_SCENE", 10**9)
    want = model(latents, prompts, timesteps, layout=layout, targets=(2,))
    monkeypatch.setattr(streams, "SMALLEST_SCENE", 1)
    kept = keep_context(model, latents, prompts, layout=layout, targets=(2,))
    got = model(latents, prompts, timesteps, layout=layout, context=kept)
    assert max_error(got, want) <= TOLERANCE * max(1.0, want.abs().max().item())


@torch.no_grad()
def test_bfloat16_streams_as_exactly_as_it_joins(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = story()
    exact = make_model()(*make_inputs(layout), layout=layout)
    model = make_model().to(torch.bfloat16)
    inputs = [x.to(torch.bfloat16) if x.is_floating_point() else x for x in make_inputs(layout)]
    errors = []
    for smallest in (1, 10**9):
        monkeypatch.setattr(streams, "SMALLEST_SCENE", smallest)
        errors.append((model(*inputs, layout=layout).float() - exact).norm().item())
    assert errors[0] <= 1.2 * errors[1]


@pytest.mark.usefixtures("_force_streams")
def test_gradients_never_stream() -> None:
    model, layout = make_model(), story()
    model(*make_inputs(layout), layout=layout).square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.usefixtures("_force_streams")
def test_inputs_are_left_as_they_are() -> None:
    model, layout = make_model(), story()
    inputs = make_inputs(layout)
    before = [tensor.clone() for tensor in inputs]
    first = model(*inputs, layout=layout)
    assert all(torch.equal(now, was) for now, was in zip(inputs, before, strict=True))
    assert torch.equal(model(*inputs, layout=layout), first)
