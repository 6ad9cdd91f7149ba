"""A widened VAE computes what the narrow one computes."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from m2d.errors import InputError
from m2d.puppet.training.vae import build_vae
from m2d.puppet.training.vae_widening import decoder_channels, widened
from tests.m2d.puppet.training.tiny_helpers import vae_recipe

# Float32 sums in another order: a few roundings of 6e-8 over some twenty layers.
_ROUNDING = 2e-5


@pytest.fixture(scope="module")
def narrow() -> AutoencoderKLCogVideoX:
    return build_vae(vae_recipe()).eval()


def _draw() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@torch.no_grad()
@pytest.mark.parametrize("channels", [(8, 8, 16), (8, 24, 8), (16, 16, 32)])
def test_latents_and_frames_stay_the_same(narrow: AutoencoderKLCogVideoX, channels: tuple[int, ...]) -> None:
    wide = widened(narrow, channels, draw=_draw()).eval()
    frames_BCPHW = torch.rand(1, 3, 9, 16, 16, generator=_draw()) * 2 - 1
    latents = narrow.encode(frames_BCPHW).latent_dist.mode()
    assert torch.allclose(wide.encode(frames_BCPHW).latent_dist.mode(), latents, atol=_ROUNDING)
    assert torch.allclose(wide.decode(latents).sample, narrow.decode(latents).sample, atol=_ROUNDING)
    assert decoder_channels(wide.state_dict()) == channels
    assert wide.config.scaling_factor == narrow.config.scaling_factor


def test_copies_of_a_channel_get_different_gradients(narrow: AutoencoderKLCogVideoX) -> None:
    wide = widened(narrow, (8, 8, 16), draw=_draw())
    wide.decode(torch.randn(1, 4, 1, 4, 4, generator=_draw())).sample.square().mean().backward()
    gradient = wide.decoder.conv_in.conv.weight.grad
    assert gradient is not None
    assert not torch.allclose(gradient[0::2], gradient[1::2], rtol=0.01)


def test_channels_that_are_no_multiples_are_rejected(narrow: AutoencoderKLCogVideoX) -> None:
    with pytest.raises(InputError, match=r"got \[8, 8, 12\]; use multiples of \[8, 8, 8\]"):
        widened(narrow, (8, 8, 12))


def test_levels_that_differ_cannot_become_equal() -> None:
    narrow = build_vae(vae_recipe(block_out_channels=[8, 8, 16]))
    with pytest.raises(InputError, match=r"levels that differ in \[8, 8, 16\].* cannot become equal"):
        widened(narrow, (16, 16, 16))
