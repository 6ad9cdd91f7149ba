"""What every backend must do. A new backend is done when this file passes with it installed.

The oracle is the transformer itself, called directly. Backends that cannot work here are skipped, with the
reason. Those that run exported graphs export what a test needs; native code takes minutes to compile, so its
backends are held to all of this with `-m long`.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from m2d.backend import Backend, BackendOptions, Denoiser, ExportingBackend
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.errors import (
    ArtifactMissing,
    ArtifactRefused,
    BackendError,
    BackendUnavailable,
    CheckpointError,
    InputError,
    LayoutMismatch,
)
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


# They compile for every layout: seconds to a minute each.
COMPILERS = {"compile", "aot", "tensorrt"}


def backends() -> Iterator[object]:
    for status in available_backends("cpu"):
        marks = (pytest.mark.long,) if status.name in COMPILERS else ()
        yield pytest.param(status.name, marks=marks)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of the session's own: graphs are exported once for all tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("M2D_CACHE", str(folder))
        yield folder


def options_for(*, batch: int = 1, **others: Any) -> BackendOptions:
    return BackendOptions(latent_size=(4, 4), batch_size=batch, **others)


def prepare(backend: Backend, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
    if isinstance(backend, ExportingBackend):
        try:
            backend.find(source, layout, options)
        except ArtifactMissing:
            backend.export(source, layout, options)
    return backend.prepare(source, layout, options)


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
    denoiser = prepare(backend, source, layout, options_for(batch=batch))
    assert denoiser.targets == tuple(range(layout.num_scenes))
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))


@pytest.mark.parametrize("targets", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("case", ["three scenes", "unequal scenes"])
def test_targets_get_the_velocity_they_have_among_all_scenes(backend, source, case, targets):
    layout = CASES[case]
    inputs = inputs_for(layout)
    denoiser = prepare(backend, source, layout, options_for(targets=targets))
    everything = oracle(source, layout, inputs)
    expected = torch.cat([everything[:, layout.frame_span(scene).as_slice] for scene in targets], dim=1)
    assert denoiser.targets == targets
    assert_same_velocity(denoiser.predict(*inputs), expected)


def test_the_same_call_twice_gives_the_same_bits_and_leaves_its_inputs_alone(backend, source, layout):
    inputs = inputs_for(layout)
    copies = [tensor.clone() for tensor in inputs]
    denoiser = prepare(backend, source, layout, options_for())
    assert torch.equal(denoiser.predict(*inputs), denoiser.predict(*inputs))
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


def test_an_earlier_denoiser_still_works_after_another_was_prepared(backend, source):
    layout, other = CASES["three scenes"], CASES["one scene"]
    first = prepare(backend, source, layout, options_for())
    before = first.predict(*inputs_for(layout))
    prepare(backend, source, other, options_for()).predict(*inputs_for(other))
    assert torch.equal(first.predict(*inputs_for(layout)), before)


def test_weights_are_read_once_for_all_layouts_and_targets_until_they_are_released(
    fresh_backend, source, tmp_path
):
    if isinstance(fresh_backend, ExportingBackend):
        pytest.skip("its graphs hold the weights: another layout is another file")
    moved = resolve_model(str(shutil.copytree(source.path, tmp_path / "model")))
    layout, other = CASES["three scenes"], CASES["one scene"]
    prepare(fresh_backend, moved, layout, options_for())
    for weights in (moved.path / "transformer").glob("*.safetensors"):
        weights.unlink()
    prepare(fresh_backend, moved, other, options_for())
    later = prepare(fresh_backend, moved, layout, options_for(targets=(2,)))
    expected = oracle(source, layout, inputs_for(layout))[:, layout.frame_span(2).as_slice]
    assert_same_velocity(later.predict(*inputs_for(layout)), expected)
    fresh_backend.release()
    with pytest.raises(CheckpointError, match="transformer"):
        prepare(fresh_backend, moved, layout, options_for())


def test_a_released_denoiser_refuses_and_another_one_gives_the_same_bits(fresh_backend, source, layout):
    fresh_backend.release()
    denoiser = prepare(fresh_backend, source, layout, options_for())
    before = denoiser.predict(*inputs_for(layout))
    fresh_backend.release()
    fresh_backend.release()
    with pytest.raises(BackendError, match="released; prepare another one"):
        denoiser.predict(*inputs_for(layout))
    again = prepare(fresh_backend, source, layout, options_for())
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
            "(tokens per frame|latent width): got 8, the layout has 4",
        ),
        ({"prompt_embeds_BLD": torch.zeros(1, 16, TEXT_WIDTH)}, "text tokens: got 16, the layout has 15"),
        ({"timesteps_BN": torch.zeros(1, 2, dtype=torch.long)}, "timesteps: got 2, the layout has 3"),
    ],
)
def test_inputs_of_another_layout_are_refused_and_never_run(backend, source, change, message):
    layout = CASES["three scenes"]
    denoiser = prepare(backend, source, layout, options_for())
    with pytest.raises(LayoutMismatch, match=f"layout {layout.digest()[:12]}; {message}"):
        denoiser.predict(*inputs_for(layout)._replace(**change))


def test_targets_outside_the_layout_are_refused(backend, source):
    with pytest.raises(InputError, match=r"targets: .*3"):
        backend.prepare(source, CASES["three scenes"], options_for(targets=(1, 3)))


def test_a_device_that_it_cannot_use_is_refused_and_no_other_is_taken(backend, source):
    with pytest.raises(BackendUnavailable, match=rf"backend '{backend.name}': device 'abacus'"):
        backend.prepare(source, CASES["one scene"], options_for(device="abacus"))


def test_an_option_that_it_does_not_know_is_refused(backend, source):
    with pytest.raises(InputError, match=rf"backend '{backend.name}': .*warp"):
        backend.prepare(source, CASES["one scene"], options_for(extra={"warp": "9"}))


@pytest.fixture
def exporting(backend: Backend) -> ExportingBackend:
    if not isinstance(backend, ExportingBackend):
        pytest.skip(f"{backend.name} runs the model itself")
    return backend


def test_without_a_graph_nothing_is_run(exporting, source):
    layout = SceneLayout.build("isolated", text_tokens=(5,), latent_frames=(7,), tokens_per_frame=4)
    for act in (exporting.find, exporting.prepare):
        with pytest.raises(ArtifactMissing, match=f"backend '{exporting.name}': no graph is exported"):
            act(source, layout, options_for())


def test_a_graph_is_for_one_size_which_has_to_be_given(exporting, source):
    with pytest.raises(InputError, match=r"latent_size=\(height, width\)"):
        exporting.prepare(source, CASES["one scene"], BackendOptions())
    with pytest.raises(InputError, match="latent_size: got 4x8 in patches of 2, the layout has 4 tokens"):
        exporting.find(source, CASES["one scene"], BackendOptions(latent_size=(4, 8)))


@pytest.mark.parametrize(
    ("layout_name", "weights", "field"),
    [("three scenes", "other", "weights_digest"), ("one scene", "same", "layout_digest")],
)
def test_a_graph_runs_no_other_layout_and_no_other_weights(
    exporting, source, tmp_path, layout_name, weights, field
):
    prepare(exporting, source, CASES["three scenes"], options_for())
    folder = exporting.find(source, CASES["three scenes"], options_for())
    if weights == "other":
        moved = shutil.copytree(source.path, tmp_path / "model")
        config = moved / "transformer" / "config.json"
        config.write_text(config.read_text() + "\n")
        source = resolve_model(str(moved))
    with pytest.raises(ArtifactRefused, match=rf"is key \w{{12}}, wanted is \w{{12}}; .*{field}: artifact"):
        exporting.prepare(source, CASES[layout_name], options_for(artifacts=folder))


def test_what_was_exported_is_listed_with_its_error(exporting, source):
    prepare(exporting, source, CASES["three scenes"], options_for())
    folder = exporting.find(source, CASES["three scenes"], options_for())
    (artifact,) = [each for each in exporting.stored() if each.folder == folder]
    assert artifact.manifest.layout_digest == CASES["three scenes"].digest()
    assert 0 <= artifact.relative_error <= RELATIVE_ERROR


def test_a_tampered_graph_is_never_loaded(exporting, source, tmp_path):
    prepare(exporting, source, CASES["three scenes"], options_for())
    folder = exporting.find(source, CASES["three scenes"], options_for())
    copy = shutil.copytree(folder, tmp_path / "artifact")
    (graph, *_) = (path for path in copy.iterdir() if path.name != "manifest.json")
    damaged = bytearray(graph.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph.write_bytes(damaged)
    with pytest.raises(ArtifactRefused, match="sha256 differs"):
        exporting.prepare(source, CASES["three scenes"], options_for(artifacts=copy))


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
    denoiser = prepare(backend, source, layout, options_for(batch=2, targets=(0, 2)))
    first, second = (denoise(denoiser, scheduler_from_config(config), request) for _ in range(2))
    context = layout.frame_span(1).as_slice
    assert torch.equal(first, second)
    assert torch.equal(first[:, context], inputs.latents_BFCHW[:, context])
    assert torch.isfinite(first).all()
