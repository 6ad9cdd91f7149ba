"""A model's sizes in pixels, frames, latents and tokens, and the rules that connect them.

Owns the frame rule, `T*k + 1` or coarser, and the divisibility of heights and widths; knows no weights and no
tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil, lcm
from typing import Self

from m2d.errors import InputError

_MAY_BE_ZERO = ("image_channels", "is_fixed_size", "starts_from_images")


class GeometryError(InputError):
    """A number of frames, a height or a width that the model cannot generate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneGeometry:
    """One scene's sizes in pixels, in latents and in tokens.

    Attributes:
        num_latent_frames: Frames of latents, those that only fill a token included. Of the others, the first
            holds one pixel frame and every other one a group.
        latent_height: Rows of latents, before patching.
        tokens_per_frame: Tokens of one latent frame, or of `frames_per_token` of them together.
    """

    num_frames: int
    height: int
    width: int
    num_latent_frames: int
    latent_height: int
    latent_width: int
    tokens_per_frame: int
    frames_per_token: int = 1

    @classmethod
    def of_pixels(cls, *, num_frames: int, height: int, width: int) -> Self:
        """Return the sizes of a scene that is never encoded; those of its latents are 1."""
        return cls(
            num_frames=num_frames,
            height=height,
            width=width,
            num_latent_frames=1,
            latent_height=1,
            latent_width=1,
            tokens_per_frame=1,
        )

    @property
    def num_video_tokens(self) -> int:
        """Video tokens of the whole scene."""
        return self.num_latent_frames // self.frames_per_token * self.tokens_per_frame


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelGeometry:
    """The sizes in a model folder's configs; defaults hold where the recipe names nothing.

    Attributes:
        spatial_compression: Pixels per latent along height and width (VAE).
        temporal_compression: Pixel frames per latent frame after the first (VAE).
        patch_size: Latents per token along height and width (transformer).
        max_text_tokens: Tokens that every prompt is padded to.
        num_scenes: Scenes of the stories the model was trained on.
        temporal_patch_size: Latent frames per token. Where a scene's latent frames do not fill the last
            token, copies of the first are put before them.
        frame_step: A scene has a multiple of this many pixel frames, and one more; as `temporal_compression`.
        image_channels: Channels of the latents of a first frame, which the transformer takes beside those it
            denoises; 0 for a model that takes no image.
        is_fixed_size: Whether only pictures of the default size are possible.
        starts_from_images: Whether a model without image channels starts a scene from a picture, kept as the
            scene's first latent frame.

    Raises:
        GeometryError: A value is not a positive integer.
    """

    spatial_compression: int
    temporal_compression: int
    patch_size: int
    latent_channels: int
    max_text_tokens: int
    default_height: int
    default_width: int
    default_num_frames: int
    default_fps: int
    num_scenes: int
    temporal_patch_size: int = 1
    frame_step: int = 1
    image_channels: int = 0
    is_fixed_size: bool = False
    starts_from_images: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in _MAY_BE_ZERO and (type(value) is not int or value < 1):
                raise GeometryError(
                    f"{field.name}: {value!r} is not a positive whole number; fix the model's config"
                )

    @property
    def pixels_per_token(self) -> int:
        """Pixels that one token spans along height and along width; sizes are multiples of it."""
        return self.spatial_compression * self.patch_size

    @property
    def frames_per_step(self) -> int:
        """The s of the frame rule `s*k + 1`."""
        return lcm(self.temporal_compression, self.frame_step)

    @property
    def input_channels(self) -> int:
        """Channels that the transformer takes."""
        return self.latent_channels + self.image_channels

    @property
    def takes_images(self) -> bool:
        """Whether a scene may start from a picture."""
        return self.image_channels > 0 or self.starts_from_images

    def num_latent_frames(self, num_frames: int) -> int:
        """Count the latent frames of `num_frames` pixel frames: `(P - 1) / T + 1`, in whole tokens.

        Raises:
            GeometryError: `num_frames` is not `s*k + 1`; the message names the nearest allowed numbers.
        """
        step = self.frames_per_step
        steps, rest = divmod(num_frames - 1, step)
        if num_frames >= 1 and rest == 0:
            encoded = (num_frames - 1) // self.temporal_compression + 1
            return ceil(encoded / self.temporal_patch_size) * self.temporal_patch_size
        nearest = (max(steps, 0) * step + 1, (max(steps, 0) + 1) * step + 1)
        allowed = (
            f"{nearest[0]} or {nearest[1]}" if num_frames >= 1 else f"{nearest[0]}, {nearest[1]} or more"
        )
        raise GeometryError(f"num_frames: {num_frames} is not {step}k+1; use {allowed}")

    def num_frames(self, num_latent_frames: int) -> int:
        """Count the pixel frames that `num_latent_frames` latent frames decode to; the inverse of the above.

        A number of latent frames that no scene has is rounded down.
        """
        if num_latent_frames < 1:
            raise GeometryError(
                f"num_latent_frames: {num_latent_frames} is below 1; a scene has at least one"
            )
        step = self.frames_per_step
        return (num_latent_frames - 1) * self.temporal_compression // step * step + 1

    def scene(self, *, num_frames: int, height: int, width: int) -> SceneGeometry:
        """Derive one scene's sizes in latents and tokens.

        Raises:
            GeometryError: A size the model cannot generate; the message names each, with the nearest allowed.
        """
        wrong = []
        try:
            num_latent_frames = self.num_latent_frames(num_frames)
        except GeometryError as error:
            num_latent_frames = 0
            wrong.append(str(error))
        wrong += [self._wrong_side(name, side) for name, side in (("height", height), ("width", width))]
        if any(wrong):
            raise GeometryError("\n".join(filter(None, wrong)))
        return SceneGeometry(
            num_frames=num_frames,
            height=height,
            width=width,
            num_latent_frames=num_latent_frames,
            latent_height=height // self.spatial_compression,
            latent_width=width // self.spatial_compression,
            tokens_per_frame=(height // self.pixels_per_token) * (width // self.pixels_per_token),
            frames_per_token=self.temporal_patch_size,
        )

    def _wrong_side(self, name: str, side: int) -> str:
        step, only = self.pixels_per_token, getattr(self, f"default_{name}")
        if self.is_fixed_size and side != only:
            return f"{name}: {side}, but the model makes pictures of one size alone; use {only}"
        if side >= step and side % step == 0:
            return ""
        below = side // step * step
        allowed = f"{below} or {below + step}" if below > 0 else f"{step}, {2 * step} or more"
        return f"{name}: {side} is not a positive multiple of {step}; use {allowed}"
