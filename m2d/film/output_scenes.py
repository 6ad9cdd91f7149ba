"""The scenes of an output film: new frames with crossfades blended, or packets copied from the input film.

`m2d.video.joining` blends, `m2d.video.encode` encodes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from m2d.film.fitted_scene import FilmPictures, FittedScene
from m2d.fit import FilmFit
from m2d.joins import CUT
from m2d.recipe.plan import RunPlan
from m2d.video.encode import Picture, encode_scene
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
        fitted: The same in a film of its own size and rate; None in any other film.
        copied: Packets: of the input film for a copied scene, otherwise None until they are encoded.
    """

    made: MadeScene
    frames_PHWC: np.ndarray | None = None
    fitted: FittedScene | None = None
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
        return SheetScene(
            prompt=self.made.prompt,
            num_frames=self._num_shown(),
            picked=partial(self._picked, upscale=upscale),
            key=self.made.packets_sha256 or "",
        )

    def _num_shown(self) -> int:
        if self.copied is not None:
            return len(self.copied)
        if self.fitted is not None:
            return self.fitted.num_shown
        return 0 if self.frames_PHWC is None else len(self.frames_PHWC)

    def _picked(self, indices: Sequence[int], *, upscale: int) -> list[np.ndarray]:
        if self.frames_PHWC is not None:
            return [self.frames_PHWC[index] for index in indices]
        if self.fitted is not None:
            return self.fitted.thumbnails(indices, encoded=self.copied)
        return self.encoded.picked(indices, upscale=upscale)


def fitted_scenes(
    scenes: Sequence[MadeScene],
    copies: Mapping[int, EncodedScene | None],
    *,
    encoded: Mapping[int, EncodedScene | None],
    fit: FilmFit,
) -> list[OutputScene]:
    """Build the scenes of an output of its own size and rate; arguments as for `output_scenes`.

    Args:
        encoded: Index of an old scene to its packets in the input film.
    """
    first = replace(scenes[0], join=CUT, colour_jump=None)
    scenes = [first, *scenes[1:]]
    overlaps = [*(scene.join.num_frames for scene in scenes), 0]
    output: list[OutputScene] = []
    for index, scene in enumerate(scenes):
        fitted = FittedScene(
            pictures=FilmPictures(made=scene, encoded=encoded.get(index), fit=fit),
            before=output[-1].fitted.pictures if output and output[-1].fitted else None,
            opening=overlaps[index],
            closing=overlaps[index + 1],
        )
        output.append(OutputScene(made=scene, fitted=fitted, copied=copies.get(index)))
    return output


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


def encode_output(scenes: Sequence[OutputScene], film: Path, plan: RunPlan) -> list[OutputScene]:
    """Encode the scenes that are not copied; return all scenes with their packets.

    Raises: as `encode_scenes`.
    """
    if plan.fit is None:
        encoded = _encode_enlarged(scenes, film, plan)
    else:
        picture, encoded = Picture.of_film(plan.fit), []
        for scene in scenes:
            copied = scene.copied
            if copied is None:
                assert scene.fitted is not None
                copied = encode_scene(scene.fitted.shown(), picture, film=film)
            encoded.append(copied)
    return [
        replace(scene, copied=part, made=replace(scene.made, packets_sha256=part.digest()))
        for scene, part in zip(scenes, encoded, strict=True)
    ]


def _encode_enlarged(scenes: Sequence[OutputScene], film: Path, plan: RunPlan) -> list[EncodedScene]:
    parts = [scene.frames_PHWC if scene.copied is None else scene.copied for scene in scenes]
    return encode_scenes(
        [part for part in parts if part is not None],
        film,
        fps=plan.fps,
        upscale=plan.upscale,
        upscale_filter=plan.upscale_filter,
    )
