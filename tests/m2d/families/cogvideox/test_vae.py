import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from torch import Tensor

from m2d.families.cogvideox.vae import CogVideoXVae, spatial_compression
from m2d.model.convolution import OneDnnConvolutions
from m2d.model.pixels import from_pixels, to_pixels
from tests.m2d.model.tiny_model import tiny_codec


def make_codec(**changes: object) -> AutoencoderKLCogVideoX:
    torch.manual_seed(0)
    # A key that diffusers notes as left at its default is dropped even when it is changed here.
    config = {key: value for key, value in tiny_codec().config.items() if not key.startswith("_")} | changes
    levels = len(config["block_out_channels"])
    config["down_block_types"] = ("CogVideoXDownBlock3D",) * levels
    config["up_block_types"] = ("CogVideoXUpBlock3D",) * levels
    return AutoencoderKLCogVideoX.from_config(config).eval()


def make_frames(num_frames: int, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(num_frames, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("temporal", "levels"), [(1, 2), (2, 2), (4, 3), (8, 4)])
@pytest.mark.parametrize("num_latent_frames", [1, 2, 3, 4])
def test_a_scene_comes_back_with_its_own_shape(temporal: int, levels: int, num_latent_frames: int) -> None:
    codec = make_codec(temporal_compression_ratio=temporal, block_out_channels=(8,) * levels)
    num_frames = (num_latent_frames - 1) * temporal + 1
    latents = CogVideoXVae(codec).encode_clips(make_frames(num_frames)[None])[0]
    scale = spatial_compression(codec)
    assert latents.shape == (num_latent_frames, 4, 16 // scale, 24 // scale)
    frames = CogVideoXVae(codec).decode(latents)
    assert frames.shape == (num_frames, 16, 24, 3)
    assert frames.dtype == np.uint8


def test_latents_are_the_posterior_mean_shifted_and_scaled() -> None:
    codec = make_codec(scaling_factor=0.5, shift_factor=0.25)
    frames = make_frames(9)
    with torch.no_grad(), OneDnnConvolutions():
        mean = codec.encode(frames.transpose(0, 1)[None]).latent_dist.mean[0].transpose(0, 1)
    latents = CogVideoXVae(codec).encode_clips(frames[None])[0]
    torch.testing.assert_close(latents, (mean - 0.25) * 0.5, rtol=0, atol=0)
    with torch.no_grad():
        decoded = codec.decode(mean.transpose(0, 1)[None]).sample[0].transpose(0, 1)
    # Undoing the scale may move a value that lies between two pixel values by a rounding error.
    assert np.abs(CogVideoXVae(codec).decode(latents).astype(int) - to_pixels(decoded)).max() <= 1


def test_clips_encoded_together_equal_clips_encoded_alone() -> None:
    codec = make_codec()
    clips = torch.stack([make_frames(9), make_frames(9).flip(0)])
    together = CogVideoXVae(codec).encode_clips(clips)
    for clip, latents in zip(clips, together, strict=True):
        torch.testing.assert_close(
            latents, CogVideoXVae(codec).encode_clips(clip[None])[0], rtol=0, atol=1e-5
        )


def test_an_even_number_of_latent_frames_starts_with_a_single_frame() -> None:
    codec = make_codec()
    latents = torch.randn(6, 4, 4, 6, generator=torch.Generator().manual_seed(2))
    # The first group of latent frames is decoded without knowledge of the later ones.
    np.testing.assert_array_equal(
        CogVideoXVae(codec).decode(latents)[:9], CogVideoXVae(codec).decode(latents[:5])[:9]
    )


def test_pixels_are_rounded_to_the_nearest_value() -> None:
    values = torch.tensor([-2.0, -1.0, 0.9 / 127.5 - 1, 0.4 / 127.5 - 1, 1.0, 3.0])
    assert to_pixels(values.view(1, 1, 1, 6).expand(1, 3, 1, 6))[0, 0, :, 0].tolist() == [
        0,
        0,
        1,
        0,
        255,
        255,
    ]


def test_every_pixel_value_survives_the_way_there_and_back() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    np.testing.assert_array_equal(to_pixels(from_pixels(pixels)), pixels)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (make_frames(8), r"num_frames: 8 is not 4k\+1"),
        (make_frames(9, height=18), r"18 x 24 are not multiples of 4"),
        (make_frames(9)[:, :1], r"1 channels; the VAE takes 3"),
    ],
)
def test_sizes_the_vae_cannot_encode_are_refused(frames: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CogVideoXVae(make_codec()).encode_clips(frames[None])[0]
