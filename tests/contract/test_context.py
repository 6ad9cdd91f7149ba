"""What a denoiser that keeps clean context must do besides: the same velocity, from less work."""

import pytest
import torch

from m2d.backend import ContextDenoiser, ExportingBackend
from m2d.errors import BackendError
from m2d.layout import SceneLayout
from tests.contract.stories import (
    LAYOUTS,
    THREE_SCENES,
    assert_same_velocity,
    inputs_for,
    options_for,
    oracle,
)

CAUSAL = SceneLayout.build("causal", text_tokens=(5, 3, 4), latent_frames=(2, 2, 3), tokens_per_frame=4)
TARGETS = (2,)


def kept(backend, source, layout, inputs):
    options = options_for(batch=len(inputs.latents_BFCHW), targets=TARGETS)
    denoiser = backend.prepare(source, layout, options)
    return denoiser.keep_context(inputs.latents_BFCHW, inputs.prompt_embeds_BLD, targets=TARGETS)


@pytest.fixture
def keeping(backend, source):
    """A backend whose denoisers keep context; others are not asked."""
    if isinstance(backend, ExportingBackend):
        pytest.skip(f"{backend.name} runs exported graphs, which compute every scene")
    denoiser = backend.prepare(source, CAUSAL, options_for(targets=TARGETS))
    if not isinstance(denoiser, ContextDenoiser):
        pytest.skip(f"{backend.name} keeps no context")
    assert denoiser.context_bytes == 0
    return backend


@pytest.mark.parametrize("batch", [1, 2])
def test_with_kept_context_the_targets_have_the_same_velocity_at_every_step(keeping, source, batch):
    denoiser = kept(keeping, source, CAUSAL, inputs_for(CAUSAL, batch=batch, timesteps=(0, 0, 999)))
    assert (denoiser.layout, denoiser.targets) == (CAUSAL, TARGETS)
    for timestep in (999, 400):
        inputs = inputs_for(CAUSAL, batch=batch, timesteps=(0, 0, timestep))
        assert_same_velocity(denoiser.predict(*inputs), oracle(source, CAUSAL, inputs, TARGETS))


def test_kept_context_is_not_read_again_and_its_memory_is_told(keeping, source):
    inputs = inputs_for(CAUSAL, timesteps=(0, 0, 999))
    denoiser = kept(keeping, source, CAUSAL, inputs)
    # Blocks, keys and values, context's video tokens, width, bytes.
    assert denoiser.context_bytes == 2 * 2 * 16 * 32 * 4
    expected = denoiser.predict(*inputs).clone()
    for scene in (0, 1):
        inputs.latents_BFCHW[:, CAUSAL.frame_span(scene).as_slice] = torch.nan
        inputs.prompt_embeds_BLD[:, CAUSAL.text_span(scene).as_slice] = torch.nan
    assert torch.equal(denoiser.predict(*inputs), expected)


def test_where_context_depends_on_the_targets_nothing_is_kept(keeping, source):
    layout = LAYOUTS[THREE_SCENES]
    inputs = inputs_for(layout, timesteps=(0, 0, 999))
    denoiser = kept(keeping, source, layout, inputs)
    assert denoiser.context_bytes == 0
    assert_same_velocity(denoiser.predict(*inputs), oracle(source, layout, inputs, TARGETS))


@pytest.mark.usefixtures("keeping")
def test_releasing_the_weights_ends_denoisers_with_kept_context_too(source, fresh_backend):
    inputs = inputs_for(CAUSAL, timesteps=(0, 0, 999))
    denoiser = kept(fresh_backend, source, CAUSAL, inputs)
    fresh_backend.release()
    with pytest.raises(BackendError, match="released; prepare another one"):
        denoiser.predict(*inputs)
