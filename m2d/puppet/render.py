"""Render puppet scenes to frames, many clips at a time.

Owns the composition of backdrop and actors. Shapes: B clips, P frames, Q poses, C = 3 colours, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from m2d.puppet.puppets import MARKS_X, MAX_CUTOUTS, held_moments, puppet_cutouts
from m2d.puppet.raster import OUTLINED_FIELD, pack, paint
from m2d.puppet.stage import paint_backdrops
from m2d.puppet.story import Backdrop, Scene, Story
from m2d.puppet.vocabulary import HATS

# Left and right edge of each actor's range (fractions of the width); only this part is painted.
_WINDOWS = ((0.0, 0.7), (0.3, 1.0))
_NUM_ACTORS = len(MARKS_X)


class Clip(NamedTuple):
    """One scene of one story."""

    story: Story
    scene: Scene

    @property
    def backdrop(self) -> Backdrop:
        """The scene's backdrop."""
        return self.story.backdrop_of(self.scene)


def render_clips(
    clips: list[Clip],
    *,
    num_frames: int,
    height: int,
    width: int,
    moments_P: np.ndarray | None = None,
    wardrobe: Sequence[str] = HATS,
    outlined: bool = True,
) -> Tensor:
    """Render clips, maybe of different stories: RGB in 0..1, shape (B, P, 3, H, W).

    Args:
        moments_P: The moment of every action that each frame shows, from 0 (its start) to 1 (its end). None
            shows whole actions, each pose held for two frames.
        wardrobe: The hat drawn for each of HATS; see `puppet_cutouts`.
        outlined: Whether actors have their dark outlines.
    """
    backdrops_BCHW = paint_backdrops([clip.backdrop for clip in clips], height=height, width=width)
    # Each moment is painted once; the other frames that show it are copies.
    moments_Q, pose_of_frame_P = np.unique(
        held_moments(num_frames) if moments_P is None else moments_P, return_inverse=True
    )
    poses_BQCHW = backdrops_BCHW[:, None].repeat(1, len(moments_Q), 1, 1, 1)
    for mark in range(_NUM_ACTORS):
        rows = [row for row, clip in enumerate(clips) if clip.scene.actions[mark] is not None]
        if not rows:
            continue
        cutouts = np.stack(
            [
                _actor_cutouts(
                    clips[row], mark, moments_P=moments_Q, aspect=width / height, wardrobe=wardrobe
                )
                for row in rows
            ]
        )
        if not outlined:
            cutouts[..., OUTLINED_FIELD] = 0.0
        left, right = (round(edge * width) for edge in _WINDOWS[mark])
        window = poses_BQCHW[rows, :, :, :, left:right]
        paint(window, torch.from_numpy(cutouts), left=left, picture_height=height)
        poses_BQCHW[rows, :, :, :, left:right] = window
    return poses_BQCHW.clamp_(0.0, 1.0)[:, pose_of_frame_P]


def _actor_cutouts(
    clip: Clip, mark: int, *, moments_P: np.ndarray, aspect: float, wardrobe: Sequence[str]
) -> np.ndarray:
    action = clip.scene.actions[mark]
    assert action is not None
    cutouts = puppet_cutouts(
        clip.story.cast[mark],
        action,
        mark=mark,
        size=clip.backdrop.actor_size,
        eyes=clip.backdrop.eyes,
        moments_P=moments_P,
        wardrobe=wardrobe,
    )
    # A wider picture has a wider stage: the actors' marks move apart, the actors keep their shape.
    shift = MARKS_X[mark] * (aspect - 1.0)
    return pack(
        [part._replace(x=part.x + shift) for part in cutouts], num_frames=len(moments_P), length=MAX_CUTOUTS
    )
