"""What every backend must do. A new backend is done when `tests/contract` passes with it installed.

The oracle is the transformer itself, called directly. How to run this for one backend of any package:
`docs/backends.md`.
"""

import shutil

import pytest
import torch

from m2d.backend import BackendOptions, ExportingBackend
from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.errors import BackendError, BackendUnavailable, CheckpointError, InputError, LayoutMismatch
from m2d.families.source import resolve_model
from tests.contract.stories import (
    LAYOUTS,
    SIZE,
    THREE_SCENES,
    Inputs,
    assert_same_velocity,
    inputs_for,
    options_for,
    oracle,
    prepare,
)
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH


@pytest.mark.parametrize("batch", [1, 2])
def test_the_velocity_equals_the_models_own(backend, source, layout, batch):
    inputs = inputs_for(layout, batch=batch)
    denoiser = prepare(backend, source, layout, options_for(batch=batch))
    assert denoiser.layout == layout
    assert denoiser.targets == tuple(range(layout.num_scenes))
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))


def test_prepared_for_guidance_in_one_batch_it_runs_smaller_batches_too(backend, source):
    layout = LAYOUTS[THREE_SCENES]
    denoiser = prepare(backend, source, layout, options_for(batch=2))
    for batch in (1, 2):
        inputs = inputs_for(layout, batch=batch)
        assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))


def test_predictions_that_share_a_batch_do_not_see_each_other(backend, source):
    layout = LAYOUTS[THREE_SCENES]
    pair = inputs_for(layout, batch=2)
    together = prepare(backend, source, layout, options_for(batch=2)).predict(*pair)
    for place in (0, 1):
        alone = Inputs(*(tensor[place : place + 1] for tensor in pair))
        assert_same_velocity(together[place : place + 1], oracle(source, layout, alone))


@pytest.mark.parametrize("timesteps", [(0, 0, 999), (999, 999, 999), (3, 500, 0)])
def test_every_scene_has_a_timestep_of_its_own(backend, source, timesteps):
    layout = LAYOUTS[THREE_SCENES]
    denoiser = prepare(backend, source, layout, options_for())
    inputs = inputs_for(layout, timesteps=timesteps)
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))


@pytest.mark.parametrize("targets", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("layout", [THREE_SCENES, "unequal scenes"], indirect=True)
def test_targets_get_the_velocity_they_have_among_all_scenes(backend, source, layout, targets):
    inputs = inputs_for(layout)
    denoiser = prepare(backend, source, layout, options_for(targets=targets))
    assert denoiser.targets == targets
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs, targets))


def test_the_same_call_twice_gives_the_same_bits_and_leaves_its_inputs_alone(backend, source, layout):
    inputs = inputs_for(layout)
    copies = [tensor.clone() for tensor in inputs]
    denoiser = prepare(backend, source, layout, options_for())
    first = denoiser.predict(*inputs)
    before = first.clone()
    assert torch.equal(denoiser.predict(*inputs), before)
    # A result belongs to the caller: the next call may not write over it.
    assert torch.equal(first, before)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(inputs, copies, strict=True))


def test_an_earlier_denoiser_still_works_after_another_was_prepared(backend, source):
    layout, other = LAYOUTS[THREE_SCENES], LAYOUTS["one scene"]
    first = prepare(backend, source, layout, options_for())
    before = first.predict(*inputs_for(layout)).clone()
    prepare(backend, source, other, options_for()).predict(*inputs_for(other))
    assert torch.equal(first.predict(*inputs_for(layout)), before)


def test_weights_are_read_once_for_all_layouts_and_targets_until_they_are_released(
    fresh_backend, source, tmp_path
):
    if isinstance(fresh_backend, ExportingBackend):
        pytest.skip("its graphs hold the weights: another layout is another file")
    moved = resolve_model(str(shutil.copytree(source.path, tmp_path / "model")))
    layout, other = LAYOUTS[THREE_SCENES], LAYOUTS["one scene"]
    prepare(fresh_backend, moved, layout, options_for())
    for weights in (moved.path / "transformer").glob("*.safetensors"):
        weights.unlink()
    prepare(fresh_backend, moved, other, options_for())
    later = prepare(fresh_backend, moved, layout, options_for(targets=(2,)))
    inputs = inputs_for(layout)
    assert_same_velocity(later.predict(*inputs), oracle(source, layout, inputs, (2,)))
    fresh_backend.release()
    with pytest.raises(CheckpointError, match="transformer"):
        prepare(fresh_backend, moved, layout, options_for())


def test_a_released_denoiser_refuses_and_another_one_gives_the_same_bits(fresh_backend, source, layout):
    fresh_backend.release()
    denoiser = prepare(fresh_backend, source, layout, options_for())
    before = denoiser.predict(*inputs_for(layout)).clone()
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
            {"latents_BFCHW": torch.zeros(1, 7, LATENT_CHANNELS, *SIZE)},
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
    layout = LAYOUTS[THREE_SCENES]
    denoiser = prepare(backend, source, layout, options_for())
    with pytest.raises(LayoutMismatch, match=f"layout {layout.digest()[:12]}; {message}"):
        denoiser.predict(*inputs_for(layout)._replace(**change))


def test_targets_outside_the_layout_are_refused(backend, source):
    with pytest.raises(InputError, match=r"targets: .*3"):
        backend.prepare(source, LAYOUTS[THREE_SCENES], options_for(targets=(1, 3)))


def test_a_device_that_it_cannot_use_is_refused_and_no_other_is_taken(backend, source):
    assert backend.unavailable_reason("abacus") is not None
    with pytest.raises(BackendUnavailable, match=rf"backend '{backend.name}': device 'abacus'"):
        backend.prepare(source, LAYOUTS["one scene"], options_for(device="abacus"))


def test_an_option_that_it_does_not_know_is_refused(backend, source):
    with pytest.raises(InputError, match=rf"backend '{backend.name}': .*warp"):
        backend.prepare(source, LAYOUTS["one scene"], options_for(extra={"warp": "9"}))


def test_whether_it_can_work_is_told_in_words_and_costs_nothing(backend):
    assert backend.unavailable_reason() is None
    assert backend.unavailable_reason("cpu") is None
    assert isinstance(backend.unavailable_reason("cuda:99"), str)


def test_a_film_is_denoised_from_any_context_and_the_same_way_twice(backend, source):
    layout = LAYOUTS[THREE_SCENES]
    inputs = inputs_for(layout)
    request = DenoiseRequest(
        layout=layout,
        scene_seeds=(1, 2, 3),
        latent_shape=(LATENT_CHANNELS, *SIZE),
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


def test_a_size_need_not_be_told_unless_graphs_are_exported_for_one(backend, source):
    layout = LAYOUTS[THREE_SCENES]
    if isinstance(backend, ExportingBackend):
        with pytest.raises(InputError, match=r"latent_size=\(height, width\)"):
            backend.prepare(source, layout, BackendOptions())
        return
    inputs = inputs_for(layout)
    denoiser = backend.prepare(source, layout, BackendOptions())
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs))
