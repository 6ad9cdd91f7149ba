"""The frames that scenes start from: pictures of the recipe, and the last frames of the scenes before.

Owns which frame a scene of a window starts from and how a model is given it.
"""

# F latent frames, C latent channels, H W height and width, P pixel frames

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from m2d.errors import InputError
from m2d.model.finite import check_finite
from m2d.reading import read_bytes
from m2d.recipe.images import LARGEST_BYTES, SceneImage, open_image, rgb_of
from m2d.recipe.plan import RunPlan, WindowPlan
from m2d.video.crop_resize import Turn, cover

if TYPE_CHECKING:
    from m2d.pipeline.pipeline_vae import PipelineVae


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstFrames:
    """The first frames of a window's scenes.

    Attributes:
        frames_PHWC: Scene of the film to its frames, where decoding its latents would not give them.
        latents_FCHW: Scene of the film to its latents, of all finished scenes.
    """

    vae: PipelineVae
    frames_PHWC: Mapping[int, np.ndarray]
    latents_FCHW: Mapping[int, Tensor]

    def needs_vae(self, plan: RunPlan, part: WindowPlan) -> bool:
        """Whether scenes of a window start from frames."""
        geometry = plan.source.geometry
        return geometry.image_channels > 0 or any(_starts(plan, scene) for scene in part.window.targets)

    def kept(self, plan: RunPlan, part: WindowPlan) -> dict[int, Tensor]:
        """Return the first latent frames that the result keeps, by the scene's place in the window.

        These are the scenes that start from a picture or continue the one before them; an image-to-video
        model gets the frame as an image instead.
        """
        if plan.source.geometry.image_channels:
            return {}
        return {
            part.window.scenes.index(scene): check_finite(
                self.vae().encode(self._first(plan, scene, is_made=True)).cpu(),
                what="the VAE's encoding of frames",
            )
            for scene in part.window.targets
            if _starts(plan, scene)
        }

    def images(self, plan: RunPlan, part: WindowPlan) -> dict[int, Tensor]:
        """Return the latents of every scene's first frame, by place; empty for a model without images."""
        if not plan.source.geometry.image_channels:
            return {}
        return {
            place: self.vae()
            .encode_image(self._first(plan, scene, is_made=scene in part.window.targets))
            .cpu()
            for place, scene in enumerate(part.window.scenes)
        }

    def _first(self, plan: RunPlan, scene: int, *, is_made: bool) -> np.ndarray:
        wanted = plan.scenes[scene]
        if not is_made:
            # From the scene itself, not from the picture it was made of: the same in every run.
            return self._decoded(scene, first=True)
        if wanted.join.kind == "continue":
            return self._last(scene - 1)
        if wanted.image is None:
            raise InputError(f"scene {scene + 1} has no image, which this model needs")
        return read_picture(wanted.image, height=wanted.geometry.height, width=wanted.geometry.width)

    def _last(self, scene: int) -> np.ndarray:
        """Return the last frame, 1HWC, of a finished scene before its colours are matched to others."""
        return self._decoded(scene, first=False)

    def _decoded(self, scene: int, *, first: bool) -> np.ndarray:
        part = slice(0, 1) if first else slice(-1, None)
        if scene in self.frames_PHWC:
            return self.frames_PHWC[scene][part]
        vae, latents_FCHW = self.vae(), self.latents_FCHW[scene]
        # In slices at least: the transformer may be in memory, too.
        with vae.decoding(self.vae.first_frame_strategy, latents_FCHW):
            return vae.decode(latents_FCHW)[part]


def _starts(plan: RunPlan, scene: int) -> bool:
    """Whether a scene starts from a frame of its own picture, or of the scene before it."""
    return plan.scenes[scene].image is not None or plan.scenes[scene].join.kind == "continue"


def read_picture(image: SceneImage, *, height: int, width: int) -> np.ndarray:
    """Read a picture as a frame, uint8 RGB (1, H, W, 3): upright, scaled to fill, the rest cropped.

    Raises:
        InputError: It cannot be decoded, or is no longer the file that was planned.
    """
    try:
        data = read_bytes(image.path, limit_bytes=LARGEST_BYTES)
        if hashlib.sha256(data).hexdigest() != image.sha256:
            raise InputError(f"{image.path}: changed since the run was planned; start again")
        with open_image(data, image.path.name) as opened:
            picture_HWC = rgb_of(opened)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{image.path}: the picture cannot be decoded ({error})") from error
    covering = cover(
        width=picture_HWC.shape[1],
        height=picture_HWC.shape[0],
        pixel_aspect=Fraction(1),
        turn=Turn(),
        target_width=width,
        target_height=height,
    )
    return np.array(covering.apply(picture_HWC))[None]
