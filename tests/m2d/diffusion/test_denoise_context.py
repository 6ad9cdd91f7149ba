"""Extension with context that is computed once, against the extension that computes it in every step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from m2d.backend import BackendOptions
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, DenoiseState, StepEvent, denoise
from m2d.diffusion.denoiser import ContextDenoiser, Denoiser
from m2d.diffusion.guidance import GuidanceRule
from m2d.families.loading import load_scheduler
from m2d.families.source import ModelSource, resolve_model
from m2d.layout import SceneLayout
from m2d.registry import get_backend
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, build_tiny_model

# Float32 rounding, carried through guidance and four steps: measured 2e-7.
RELATIVE_ERROR = 1e-6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder: Path = tmp_path_factory.mktemp("model")
    return resolve_model(str(build_tiny_model(folder)))


def layout_of(mask: str) -> SceneLayout:
    return SceneLayout.build(mask, text_tokens=(5, 3, 4), latent_frames=(2, 2, 3), tokens_per_frame=4)


def request_for(mask: str = "causal", **changes: Any) -> DenoiseRequest:
    stream = torch.Generator().manual_seed(0)
    settings: dict[str, Any] = {
        "layout": layout_of(mask),
        "scene_seeds": (1, 2, 3),
        "latent_shape": (LATENT_CHANNELS, 4, 4),
        "prompt_embeds_BLD": torch.randn(1, 12, TEXT_WIDTH, generator=stream),
        "negative_embeds_BLD": torch.randn(1, 12, TEXT_WIDTH, generator=stream),
        "conditioning": Conditioning(num_scenes=3, context=frozenset({0, 1})),
        "context_latents_BFCHW": torch.randn(1, 7, LATENT_CHANNELS, 4, 4, generator=stream),
        "guidance": GuidanceRule(scales=(1.0, 1.0, 3.0)),
        "num_inference_steps": 4,
    }
    return DenoiseRequest(**(settings | changes))


def prepared(source: ModelSource, request: DenoiseRequest) -> Denoiser:
    options = BackendOptions(targets=request.conditioning.targets)
    return get_backend("eager").prepare(source, request.layout, options)


def run(source: ModelSource, request: DenoiseRequest, **options: Any) -> Tensor:
    scheduler = load_scheduler(source, "dpm")
    return denoise(prepared(source, request), scheduler, request, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": "window:2"},
        {"guidance": GuidanceRule(scales=(1.0, 1.0, 3.0), mode="sequential")},
        {"guidance": GuidanceRule(scales=(1.0, 1.0, 1.0)), "negative_embeds_BLD": None},
        {"first_frames": {2: torch.ones(1, LATENT_CHANNELS, 4, 4)}},
        {"conditioning": Conditioning(num_scenes=3, context=frozenset({0}))},
    ],
    ids=["batched", "window", "sequential", "unguided", "first frame kept", "two targets"],
)
def test_an_extension_with_kept_context_makes_the_same_film(source, changes):
    request = request_for(**changes)
    with_context = run(source, request)
    without = run(source, dataclasses.replace(request, keep_context=False))
    assert torch.equal(with_context[:, :2], without[:, :2])
    assert (with_context - without).abs().max() <= RELATIVE_ERROR * without.abs().max()


def test_sequential_and_batched_guidance_keep_their_own_prompts_and_agree(source):
    batched = run(source, request_for())
    sequential = run(source, request_for(guidance=GuidanceRule(scales=(1.0, 1.0, 3.0), mode="sequential")))
    assert (batched - sequential).abs().max() <= RELATIVE_ERROR * batched.abs().max()


def test_a_resumed_extension_gives_the_bits_of_the_straight_one(source):
    states: list[DenoiseState] = []

    def keep(event: StepEvent) -> None:
        states.append(event.state())

    straight = run(source, request_for(), on_step=keep)
    for state in states:
        assert torch.equal(run(source, request_for(), resume=state), straight)


def test_what_is_kept_is_counted_for_both_predictions_of_guidance(source):
    denoiser = prepared(source, request_for())
    assert isinstance(denoiser, ContextDenoiser)
    assert denoiser.context_bytes == 0
    latents_BFCHW = torch.zeros(2, 7, LATENT_CHANNELS, 4, 4)
    kept = denoiser.keep_context(latents_BFCHW, torch.zeros(2, 12, TEXT_WIDTH), targets=(2,))
    # Blocks, keys and values, both predictions of guidance, context's video tokens, width, bytes.
    assert kept.context_bytes == 2 * 2 * 2 * 16 * 32 * 4
    assert kept.targets == (2,)


def test_a_mask_that_lets_context_see_the_targets_keeps_nothing(source):
    request = request_for("mask2dit")
    denoiser = prepared(source, request)
    assert isinstance(denoiser, ContextDenoiser)
    kept = denoiser.keep_context(
        torch.zeros(1, 7, LATENT_CHANNELS, 4, 4), torch.zeros(1, 12, TEXT_WIDTH), targets=(2,)
    )
    assert kept.context_bytes == 0
    assert torch.equal(run(source, request), run(source, dataclasses.replace(request, keep_context=False)))
