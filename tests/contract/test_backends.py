"""What every backend must do. A new backend is done when this file passes with it installed.

The oracle is the transformer itself, called directly. Backends that cannot work here are skipped, with the
reason.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

import shutil
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions, ExportingBackend
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.errors import BackendError, CheckpointError, InputError, LayoutMismatch
from m2d.layout import SceneLayout
from m2d.model.checkpoint import ModelSource, load_transformer, resolve_model
from m2d.registry import available_backends, get_backend
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, build_tiny_model

CASES = {
    "three scenes": SceneLayout.build(
        "mask2dit", text_tokens=(5, 5, 5), latent_frames=(2, 2, 2), tokens_per_frame=4
    ),
    "unequal scenes": SceneLayout.build(
        "anchor", text_tokens=(4, 2, 3), latent_frames=(1, 3, 2), tokens_per_frame=4
    ),
    "one scene": SceneLayout.build("full", text_tokens=(5,), latent_frames=(3,), tokens_per_frame=4),
}
# The same float32 arithmetic in another order; issue of record for all backends: relative error 1e-5.
RELATIVE_ERROR = 1e-5


class Inputs(NamedTuple):
    latents_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor


def inputs_for(layout: SceneLayout, *, batch: int = 1) -> Inputs:
    stream = torch.Generator().manual_seed(layout.num_tokens)
    timesteps_N = torch.tensor([0, *range(999, 999 - 7 * (layout.num_scenes - 1), -7)])
    return Inputs(
        torch.randn(batch, sum(layout.latent_frames), LATENT_CHANNELS, 4, 4, generator=stream),
        torch.randn(batch, layout.num_text_tokens, TEXT_WIDTH, generator=stream),
        timesteps_N.expand(batch, -1),
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("model"))))


def backends() -> Iterator[object]:
    """Every backend that prepares any layout by itself; all but the oracle's own compile first, for long.

    Those that run exported graphs have one for each layout and refuse all others: their own tests hold them
    to the same figures.
    """
    for status in available_backends("cpu"):
        if not isinstance(get_backend(status.name), ExportingBackend):
            marks = () if status.name == "eager" else (pytest.mark.long,)
            yield pytest.param(status.name, marks=marks)


@pytest.fixture(params=backends(), scope="session")
def backend(request: pytest.FixtureRequest) -> Backend:
    reasons = {status.name: status.unavailable_reason for status in available_backends("cpu")}
    if reasons[request.param] is not None:
        pytest.skip(f"{request.param}: {reasons[request.param]}")
    return get_backend(request.param)


@pytest.fixture
def fresh_backend(backend: Backend) -> Backend:
    """One with nothing loaded, so that releasing it disturbs no other test."""
    return get_backend(backend.name)


@pytest.fixture(params=CASES)
def layout(request: pytest.FixtureRequest) -> SceneLayout:
    return CASES[request.param]


def oracle(source: ModelSource, layout: SceneLayout, inputs: Inputs) -> Tensor:
    transformer = load_transformer(source, device="cpu", dtype=torch.float32)
    with torch.no_grad():
        velocity: Tensor = transformer(*inputs, layout=layout)
    return velocity


def assert_same_velocity(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=RELATIVE_ERROR * expected.abs().max().item())


@pytest.mark.parametrize("batch", [1, 2])
def test_the_velocity_equals_the_models_own(backend, source, layout, batch):
    inputs = inputs_for(layout, batch=batch)
    denoiser = backend.prepare(source, layout, BackendOptions())
    assert denoiser.targets == tuple(range(layout.num_scenes))
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))


@pytest.mark.parametrize("targets", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("case", ["three scenes", "unequal scenes"])
def test_targets_get_the_velocity_they_have_among_all_scenes(backend, source, case, targets):
    layout = CASES[case]
    inputs = inputs_for(layout)
    denoiser = backend.prepare(source, layout, BackendOptions(targets=targets))
    everything = oracle(source, layout, inputs)
    expected = torch.cat([everything[:, layout.frame_span(scene).as_slice] for scene in targets], dim=1)
    assert denoiser.targets == targets
    assert_same_velocity(denoiser.predict(*inputs), expected)


def test_the_same_call_twice_gives_the_same_bits_and_leaves_its_inputs_alone(backend, source, layout):
    inputs = inputs_for(layout)
    copies = [tensor.clone() for tensor in inputs]
    denoiser = backend.prepare(source, layout, BackendOptions())
    assert torch.equal(denoiser.predict(*inputs), denoiser.predict(*inputs))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


def test_an_earlier_denoiser_still_works_after_another_was_prepared(backend, source):
    layout, other = CASES["three scenes"], CASES["one scene"]
    first = backend.prepare(source, layout, BackendOptions())
    before = first.predict(*inputs_for(layout))
    backend.prepare(source, other, BackendOptions()).predict(*inputs_for(other))
    assert torch.equal(first.predict(*inputs_for(layout)), before)


def test_weights_are_read_once_for_all_layouts_and_targets_until_they_are_released(
    fresh_backend, source, tmp_path
):
    moved = resolve_model(str(shutil.copytree(source.path, tmp_path / "model")))
    layout, other = CASES["three scenes"], CASES["one scene"]
    fresh_backend.prepare(moved, layout, BackendOptions())
    for weights in (moved.path / "transformer").glob("*.safetensors"):
        weights.unlink()
    fresh_backend.prepare(moved, other, BackendOptions())
    later = fresh_backend.prepare(moved, layout, BackendOptions(targets=(2,)))
    expected = oracle(source, layout, inputs_for(layout))[:, layout.frame_span(2).as_slice]
    assert_same_velocity(later.predict(*inputs_for(layout)), expected)
    fresh_backend.release()
    with pytest.raises(CheckpointError, match="transformer"):
        fresh_backend.prepare(moved, layout, BackendOptions())


def test_a_released_denoiser_refuses_and_another_one_gives_the_same_bits(fresh_backend, source, layout):
    fresh_backend.release()
    denoiser = fresh_backend.prepare(source, layout, BackendOptions())
    before = denoiser.predict(*inputs_for(layout))
    fresh_backend.release()
    fresh_backend.release()
    with pytest.raises(BackendError, match="released; prepare another one"):
        denoiser.predict(*inputs_for(layout))
    again = fresh_backend.prepare(source, layout, BackendOptions())
    assert torch.equal(again.predict(*inputs_for(layout)), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"latents_BFCHW": torch.zeros(1, 7, LATENT_CHANNELS, 4, 4)},
            "latent frames: got 7, the layout has 6",
        ),
        (
            {"latents_BFCHW": torch.zeros(1, 6, LATENT_CHANNELS, 4, 8)},
            "tokens per frame: got 8, the layout has 4",
        ),
        ({"prompt_embeds_BLD": torch.zeros(1, 16, TEXT_WIDTH)}, "text tokens: got 16, the layout has 15"),
        ({"timesteps_BN": torch.zeros(1, 2, dtype=torch.long)}, "timesteps: got 2, the layout has 3"),
    ],
)
def test_inputs_of_another_layout_are_refused_and_never_run(backend, source, change, message):
    layout = CASES["three scenes"]
    denoiser = backend.prepare(source, layout, BackendOptions())
    with pytest.raises(LayoutMismatch, match=f"layout {layout.digest()[:12]}; {message}"):
        denoiser.predict(*inputs_for(layout)._replace(**change))


def test_targets_outside_the_layout_are_refused(backend, source):
    with pytest.raises(InputError, match=r"targets: .*3"):
        backend.prepare(source, CASES["three scenes"], BackendOptions(targets=(1, 3)))


def test_a_film_is_denoised_from_any_context_and_the_same_way_twice(backend, source):
    layout = CASES["three scenes"]
    inputs = inputs_for(layout)
    request = DenoiseRequest(
        layout=layout,
        scene_seeds=(1, 2, 3),
        latent_shape=(LATENT_CHANNELS, 4, 4),
        prompt_embeds_BLD=inputs.prompt_embeds_BLD,
        negative_embeds_BLD=torch.zeros_like(inputs.prompt_embeds_BLD),
        conditioning=Conditioning(num_scenes=3, context=frozenset({1})),
        context_latents_BFCHW=inputs.latents_BFCHW,
        guidance=GuidanceRule(scales=(2.0, 1.0, 3.0)),
        num_inference_steps=3,
    )
    config = {
        "_class_name": "CogVideoXDPMScheduler",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
    }
    denoiser = backend.prepare(source, layout, BackendOptions(targets=(0, 2)))
    first, second = (denoise(denoiser, scheduler_from_config(config), request) for _ in range(2))
    context = layout.frame_span(1).as_slice
    assert torch.equal(first, second)
    assert torch.equal(first[:, context], inputs.latents_BFCHW[:, context])
    assert torch.isfinite(first).all()
