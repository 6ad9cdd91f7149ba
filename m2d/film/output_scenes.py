"""The scenes of an output film: new frames with crossfades blended, or packets copied from the input film.

`m2d.video.joining` blends, `m2d.video.encode` encodes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from m2d.enlarging import UpscaleFilter
from m2d.joins import CUT
from m2d.video.joining import shown_frames
from m2d.video.packets import EncodedScene
from m2d.video.provenance_builder import MadeScene
from m2d.video.sheet import SheetScene
from m2d.video.write import encode_scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputScene:
    """One scene of the output.

    Attributes:
        made: The scene's prompt, seed, latents and colours.
        frames_PHWC: Frames to encode, crossfades blended; None for a copied scene.
        copied: Packets: of the input film for a copied scene, otherwise None until they are encoded.
    """

    made: MadeScene
    frames_PHWC: np.ndarray | None = None
    copied: EncodedScene | None = None

    @property
    def encoded(self) -> EncodedScene:
        """The packets.

        Raises:
            ValueError: The scene is not encoded yet.
        """
        if self.copied is None:
            raise ValueError("the scene is not encoded yet")
        return self.copied

    def on_sheet(self, *, upscale: int) -> SheetScene:
        """Return the scene for a contact sheet; a copied scene is decoded from its packets."""
        frames_PHWC = self.frames_PHWC
        return SheetScene(
            prompt=self.made.prompt,
            num_frames=len(self.encoded) if frames_PHWC is None else len(frames_PHWC),
            picked=partial(self._picked, upscale=upscale),
            key=self.made.packets_sha256 or "",
        )

    def _picked(self, indices: Sequence[int], *, upscale: int) -> list[np.ndarray]:
        if self.frames_PHWC is not None:
            return [self.frames_PHWC[index] for index in indices]
        return self.encoded.picked(indices, upscale=upscale)


def output_scenes(
    scenes: Sequence[MadeScene], copies: Mapping[int, EncodedScene | None]
) -> list[OutputScene]:
    """Build the scenes of an output; the first of them has no transition.

    Args:
        scenes: The scenes to write, in order. Scenes that are not copied have frames, and so have the scenes
            they are blended with.
        copies: Index of a scene to its packets, for copied scenes.
    """
    first = replace(scenes[0], join=CUT, colour_jump=None)
    scenes = [first, *scenes[1:]]
    overlaps = [*(scene.join.num_frames for scene in scenes), 0]
    output = []
    for index, scene in enumerate(scenes):
        copied = copies.get(index)
        frames_PHWC = None
        if copied is None:
            assert scene.frames_PHWC is not None
            frames_PHWC = shown_frames(
                scene.frames_PHWC,
                before_PHWC=scenes[index - 1].frames_PHWC if index else None,
                opening=overlaps[index],
                closing=overlaps[index + 1],
            )
        output.append(OutputScene(made=scene, frames_PHWC=frames_PHWC, copied=copied))
    return output


def encode_output(
    scenes: Sequence[OutputScene], film: Path, *, fps: float, upscale: int, upscale_filter: UpscaleFilter
) -> list[OutputScene]:
    """Encode the scenes that are not copied; return all scenes with their packets.

    Raises: as `encode_scenes`.
    """
    parts = [scene.frames_PHWC if scene.copied is None else scene.copied for scene in scenes]
    encoded = encode_scenes(
        [part for part in parts if part is not None],
        film,
        fps=fps,
        upscale=upscale,
        upscale_filter=upscale_filter,
    )
    return [
        replace(scene, copied=part, made=replace(scene.made, packets_sha256=part.digest()))
        for scene, part in zip(scenes, encoded, strict=True)
    ]
