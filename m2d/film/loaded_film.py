"""A film that a run goes on from, as it was loaded: its scenes, and what it tells of them.

Owns what is known of a scene; where that comes from is the business of `film` and `footage`. P frames, F
latent frames, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from m2d.pipeline.scenes import GivenScene
from m2d.recipe.plan import ScenePlan
from m2d.video.external import ResampledVideo
from m2d.video.packets import EncodedScene
from m2d.video.provenance import RunRecord, SceneRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedScene:
    """One scene of a film.

    Attributes:
        plan: Its prompt, seed, sizes and join.
        run: Index of the run that made it.
        record: What the film's provenance tells of it; None in a film that has none.
        latents_FCHW: As stored, float32; None when they are to be encoded from the frames.
        frames_PHWC: Its frames, when decoding the latents would not give them; of footage, the clip that a
            model is given.
        encoded: What is shown of it, as it is encoded in the film; None when that is to be made again.
        colour_map_LC: What its colours were sent through after decoding, uint8 (256, 3); None for nothing.
        frames_sha256: Digest of the frames it had when it was made; None when these are others.
    """

    plan: ScenePlan
    run: int
    record: SceneRecord | None = None
    latents_FCHW: np.ndarray | None = None
    frames_PHWC: np.ndarray | None = None
    encoded: EncodedScene | None = None
    colour_map_LC: np.ndarray | None = None
    frames_sha256: str | None = None

    @property
    def maker(self) -> int:
        """Index of the run that knows how it was made, also when its frames are all that is left."""
        return self.run if self.record is None else self.record.run

    @property
    def is_bare(self) -> bool:
        """Whether it is only what the film shows: footage that no model was given yet."""
        return self.latents_FCHW is None and self.frames_PHWC is None

    @property
    def is_clipped(self) -> bool:
        """Whether a model is given other frames of it than the film shows."""
        return self.plan.film_frames is not None

    def clip(self, *, upscale: int) -> np.ndarray:
        """What a model is given of it when it has no latents: uint8 PHWC.

        Args:
            upscale: The film's; only what is encoded needs it.
        """
        if self.frames_PHWC is not None:
            return self.frames_PHWC
        assert self.encoded is not None
        end, length = len(self.encoded), self.plan.geometry.num_frames
        # Before a scene that is too short its first frame is held.
        indices = [max(index, 0) for index in range(end - length, end)]
        return np.stack(self.encoded.picked(indices, upscale=upscale))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedFilm:
    """A film.

    Attributes:
        title: Its title.
        scenes: In their order.
        runs: The runs that made them; the last may be `footage`.
        digest: Of its provenance; None when it has none.
        first_scene: Number of its first scene in its story.
        fps: Frames per second.
        upscale: Factor by which the written picture is larger than the frames.
        cuts_s: Where the scenes of footage were said to begin; None when nobody said it.
        stream: Scenes, by their places, that are taken over from a film which does not hold them as they are
            encoded here; others have no frames in it. None when there are none.
        file_sha256: Digest of the file of footage that is taken over.
        sheet: The contact sheet that was written with it, a PNG file; empty when there is none.
        notes: What was done to it, for the user.
    """

    title: str
    scenes: tuple[LoadedScene, ...]
    runs: tuple[RunRecord, ...]
    digest: str | None
    first_scene: int
    fps: int
    upscale: int
    cuts_s: tuple[float, ...] | None = None
    stream: ResampledVideo | None = None
    file_sha256: str | None = None
    sheet: bytes = b""
    notes: tuple[str, ...] = ()

    @property
    def plans(self) -> tuple[ScenePlan, ...]:
        """The scenes as a run's plan knows them."""
        return tuple(scene.plan for scene in self.scenes)

    def given_scenes(self) -> dict[int, GivenScene]:
        """Return the scenes by number, as the pipeline is given them."""
        return {
            number: GivenScene(
                latents_FCHW=scene.latents_FCHW,
                frames_PHWC=scene.frames_PHWC,
                clip=partial(scene.clip, upscale=self.upscale),
            )
            for number, scene in enumerate(self.scenes)
        }
