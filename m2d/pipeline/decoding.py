"""Latents to the frames that are shown: decoded, and matched in colour to the scene before."""

# P frames, F latent frames, C channels, H W height and width, L levels

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from m2d.model.decoding import SceneDecoder
from m2d.video.joining import colour_map, recolour


class ShownFrames(NamedTuple):
    """The frames of a scene as they are shown.

    Attributes:
        frames_PHWC: uint8, before transitions to other scenes are blended.
        colour_map_LC: The map that their colours went through, uint8 (256, 3); None when there was none.
    """

    frames_PHWC: np.ndarray
    colour_map_LC: np.ndarray | None


def decode_matched(
    decoder: SceneDecoder, latents_FCHW: Tensor, *, scene: int, before_PHWC: np.ndarray | None
) -> ShownFrames:
    """Decode a new scene and match its colours to the scene before it.

    Args:
        decoder: Decodes one scene.
        latents_FCHW: The scene.
        scene: Its number in the film, from 0, for messages.
        before_PHWC: The shown frames of the scene before; None matches nothing.

    Raises:
        DecodingError: There is too little memory.
    """
    frames_PHWC = decoder.decode(latents_FCHW, scene=scene)
    if before_PHWC is None:
        return ShownFrames(frames_PHWC, None)
    map_LC = colour_map(frames_PHWC, before_PHWC)
    return ShownFrames(recolour(frames_PHWC, map_LC), map_LC)
