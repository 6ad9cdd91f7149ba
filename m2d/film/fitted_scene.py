"""A scene in a film of its own size and rate, picture by picture: such pictures may be too large for memory.

H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from m2d.fit import FilmFit
from m2d.video.fitting import enlarged, thumbnails
from m2d.video.joining import blended
from m2d.video.packets import EncodedScene
from m2d.video.pixels import rgb_of
from m2d.video.provenance_builder import MadeScene
from m2d.video.sheet import FRAME_WIDTH


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPictures:
    """The pictures of one scene before transitions.

    Attributes:
        encoded: The scene's packets in the input film; None for a new scene.
    """

    made: MadeScene
    encoded: EncodedScene | None
    fit: FilmFit

    def all(self) -> Iterator[np.ndarray]:
        """Return the pictures of the whole scene, uint8 RGB HWC."""
        num_frames = self.made.num_frames
        if self._is_whole:
            yield from self._enlarged(range(num_frames))
            return
        assert self.encoded is not None
        found = (rgb_of(picture, upscale=1) for picture in self.encoded.pictures())
        last_HWC = None
        for picture_HWC in itertools.islice(found, num_frames):
            last_HWC = picture_HWC
            yield picture_HWC
        # A crossfade to the next scene, which is new now, took the last pictures.
        if last_HWC is not None:
            yield from itertools.repeat(last_HWC, num_frames - min(len(self.encoded), num_frames))

    def picked(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Return some pictures; the indices ascend."""
        if self._is_whole:
            return list(self._enlarged(indices))
        assert self.encoded is not None
        last = len(self.encoded) - 1
        return self.encoded.picked([min(index, last) for index in indices], upscale=1)

    def _enlarged(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        assert self.made.frames_PHWC is not None
        frames_PHWC, before = self.made.frames_PHWC, -1
        for index in indices:
            number = self.fit.model_frame(index, num_frames=len(frames_PHWC))
            # A frame of the model is shown several times.
            if number != before:
                picture_HWC = enlarged(frames_PHWC[number], self.fit)
            before = number
            yield picture_HWC

    @property
    def _is_whole(self) -> bool:
        """Whether all frames of the model are at hand, which no encoder has changed."""
        made = self.made
        if made.kept is None or self.encoded is None:
            return True
        # Of an external video there is only the clip that the model was given.
        num_held = 0 if made.frames_PHWC is None or made.seed is None else len(made.frames_PHWC)
        return num_held == made.kept.clip_frames


@dataclass(frozen=True, kw_only=True, slots=True)
class FittedScene:
    """One scene of the output with its transitions.

    Attributes:
        before: The pictures of the scene before it.
        opening: Number of pictures it shares with the scene before it.
        closing: Number of pictures it shares with the scene after it, which shows them.
    """

    pictures: FilmPictures
    before: FilmPictures | None
    opening: int
    closing: int

    @property
    def num_shown(self) -> int:
        """Number of pictures that the film shows as this scene's."""
        return self.pictures.made.num_frames - self.closing

    def shown(self) -> Iterator[np.ndarray]:
        """Return the pictures that the film shows as this scene's, as `joining.shown_frames` does."""
        tail: list[np.ndarray] = []
        if self.opening:
            assert self.before is not None
            end = self.before.made.num_frames
            tail = self.before.picked(range(end - self.opening, end))
        for index, picture_HWC in enumerate(self.pictures.all()):
            if index == self.num_shown:
                return
            if index < self.opening:
                yield blended(tail[index], picture_HWC, weight=index + 1, parts=self.opening + 1)
            else:
                yield picture_HWC

    def thumbnails(self, indices: Sequence[int], *, encoded: EncodedScene | None) -> list[np.ndarray]:
        """Return some of the shown pictures, small; from `encoded` where the scene is encoded."""
        if encoded is not None:
            found = encoded.picked(indices, upscale=1)
        else:
            found = self.pictures.picked(indices)
        return thumbnails(found, self.pictures.fit, width=FRAME_WIDTH)
