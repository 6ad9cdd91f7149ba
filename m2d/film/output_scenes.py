"""Showing: what is seen of each scene of a film, as frames or as it was encoded before, and its packets.

Owns which of the two it is; blending is `m2d.video.joining`'s, encoding `m2d.video.encode`'s. P frames, H
height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from m2d.joins import CUT
from m2d.video.joining import shown_frames
from m2d.video.packets import EncodedScene
from m2d.video.provenance_builder import MadeScene
from m2d.video.sheet import SheetScene
from m2d.video.write import encode_scenes


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownScene:
    """What is seen of one scene.

    Attributes:
        made: The scene.
        frames_PHWC: Its frames, crossfades blended; None when it is copied.
        copied: What it is in the film that was gone on from; None when its frames are encoded.
    """

    made: MadeScene
    frames_PHWC: np.ndarray | None = None
    copied: EncodedScene | None = None

    @property
    def encoded(self) -> EncodedScene:
        """Its packets.

        Raises:
            ValueError: It is not encoded yet.
        """
        if self.copied is None:
            raise ValueError("a scene that is not encoded yet")
        return self.copied

    def on_sheet(self, *, upscale: int) -> SheetScene:
        """What a contact sheet needs of it; of a copy, frames as its encoder left them."""
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


def shown_scenes(scenes: Sequence[MadeScene], copies: Mapping[int, EncodedScene | None]) -> list[ShownScene]:
    """What is seen of the scenes of a film; the first of them joins nothing.

    Args:
        scenes: Those that are written, in their order; what is not copied has frames, and so has what it is
            blended with.
        copies: Scenes that are copied.
    """
    first = replace(scenes[0], join=CUT, colour_jump=None)
    scenes = [first, *scenes[1:]]
    overlaps = [*(scene.join.num_frames for scene in scenes), 0]
    shown = []
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
        shown.append(ShownScene(made=scene, frames_PHWC=frames_PHWC, copied=copied))
    return shown


def encode_made(scenes: Sequence[ShownScene], folder: Path, *, fps: float, upscale: int) -> list[ShownScene]:
    """Encode what is not copied, and let every scene know its packets.

    Args:
        scenes: All that are written.
        folder: See `encode_scenes`.
        fps: Frames per second.
        upscale: Integer factor by which the written picture is larger than the frames.

    Raises:
        OutputError: The encoder failed.
        InputError: A size or rate that H.264 cannot have.
    """
    parts = [scene.frames_PHWC if scene.copied is None else scene.copied for scene in scenes]
    encoded = encode_scenes([part for part in parts if part is not None], folder, fps=fps, upscale=upscale)
    return [
        replace(scene, copied=part, made=replace(scene.made, packets_sha256=part.digest()))
        for scene, part in zip(scenes, encoded, strict=True)
    ]
