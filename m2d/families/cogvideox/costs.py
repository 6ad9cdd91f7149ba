"""CogVideoX's parts without storage, and what its VAE takes, counted on the meta device.

The VAE decodes a scene in groups of two or three latent frames. Its peak is that of the second group, and its
operations grow by the same number with every further frame, so short scenes are counted and the rest follows.
"""

# B batch, P pixel frames, F latent frames, C channels, H W latent height and width

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from m2d.families.cogvideox.vae_memory import decoding, tile_length
from m2d.families.family import DecodeStrategy, VaeCosts
from m2d.placement.counting import Counts, count

if TYPE_CHECKING:
    from diffusers import AutoencoderKLCogVideoX

_SHORT, _LONGER = 3, 5


def empty_part(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Build a network of a model on the meta device, where weights have no storage."""
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    with torch.device("meta"):
        if name == "vae":
            from diffusers import AutoencoderKLCogVideoX

            vae: nn.Module = AutoencoderKLCogVideoX(**_taken(AutoencoderKLCogVideoX, known))
            return vae.eval()
        if name == "text_encoder":
            from transformers import T5Config, T5EncoderModel

            settings = T5Config(**known, is_encoder_decoder=False, use_cache=False)
            return T5EncoderModel(settings).eval()  # type: ignore[no-any-return]  # transformers is untyped
        from m2d.families.cogvideox.transformer import SceneTransformer

        return SceneTransformer(**_taken(SceneTransformer, known)).eval()  # type: ignore[no-any-return]  # nn.Module.eval


def _taken(network: type[nn.Module], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a network takes of its config: other keys are ignored, as they are when it is loaded."""
    names = inspect.signature(network.__init__).parameters
    return {key: value for key, value in config.items() if key in names}


def vae_costs(
    config: Mapping[str, Any], latent_shape: tuple[int, int, int], *, dtype: torch.dtype
) -> VaeCosts:
    """Count decoding one scene of (F, H, W) latents by every strategy, and encoding it."""
    num_frames, height, width = latent_shape
    vae = _Vae(json.dumps(dict(config), sort_keys=True), height, width, dtype)
    short, longer = (_counted(vae, "decode", frames, "plain") for frames in (_SHORT, _LONGER))
    sliced_bytes = _counted(vae, "decode", _SHORT, "sliced").peak_bytes
    tile = min(tile_length(height) * tile_length(width) / (height * width), 1.0)
    plain_bytes = (longer if num_frames >= _LONGER else short).peak_bytes
    # Finished frames stay on the device until the last one is decoded.
    finished_bytes = max(num_frames - _LONGER, 0) * _frame_bytes(config, height, width, dtype)
    few, more = (_counted(vae, "encode", frames, "plain") for frames in (_SHORT, _LONGER))
    return VaeCosts(
        decode_bytes={
            "plain": plain_bytes + finished_bytes,
            "sliced": sliced_bytes,
            "tiled": int(sliced_bytes * tile),
        },
        encode_bytes=more.peak_bytes,
        image_bytes=_counted(vae, "encode", 1, "plain").peak_bytes,
        decode_flops=_along(short.flops, longer.flops, num_frames),
        encode_flops=_along(few.flops, more.flops, num_frames),
    )


def _along(short: int, longer: int, num_frames: int) -> int:
    """Continue counts of `_SHORT` and `_LONGER` frames to another number."""
    per_frame = (longer - short) / (_LONGER - _SHORT)
    return max(int(short + (num_frames - _SHORT) * per_frame), int(per_frame))


def _frame_bytes(config: Mapping[str, Any], height: int, width: int, dtype: torch.dtype) -> int:
    """Return the size of the pixel frames that one latent frame decodes to."""
    scale = 2 ** (len(config["block_out_channels"]) - 1)
    values = int(config["out_channels"]) * int(config["temporal_compression_ratio"])
    return int(values * height * width * scale**2 * dtype.itemsize)


class _Vae(NamedTuple):
    """A VAE's config as JSON, and the height and width of its latents."""

    config: str
    height: int
    width: int
    dtype: torch.dtype


@lru_cache(maxsize=32)
def _counted(
    of: _Vae, work: Literal["decode", "encode"], num_frames: int, strategy: DecodeStrategy
) -> Counts:
    vae: Any = empty_part("vae", json.loads(of.config))
    nn.Module.to(vae, of.dtype)
    shape_FHW = (num_frames, of.height, of.width)
    return _count_encode(vae, shape_FHW) if work == "encode" else _count_decode(vae, shape_FHW, strategy)


def _count_decode(
    vae: AutoencoderKLCogVideoX, shape_FHW: tuple[int, int, int], strategy: DecodeStrategy
) -> Counts:
    channels = int(vae.config.latent_channels)
    latents_BCFHW = torch.empty(1, channels, *shape_FHW, dtype=vae.dtype, device="meta")

    def decode() -> object:
        with decoding(vae, strategy, latents_BCFHW[0].transpose(0, 1)):
            return vae.decode(latents_BCFHW).sample

    return count(decode, held=[*vae.parameters(), latents_BCFHW])


def _count_encode(vae: AutoencoderKLCogVideoX, shape_FHW: tuple[int, int, int]) -> Counts:
    frames, height, width = shape_FHW
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    num_frames = (frames - 1) * int(vae.config.temporal_compression_ratio) + 1
    video_BCPHW = torch.empty(
        *(1, int(vae.config.in_channels), num_frames, height * scale, width * scale),
        dtype=vae.dtype,
        device="meta",
    )
    return count(lambda: vae.encode(video_BCPHW).latent_dist.mode(), held=[*vae.parameters(), video_BCPHW])
