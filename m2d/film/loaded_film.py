"""A film that a run starts from, loaded: its scenes with their latents, frames and records.

`load` and `external` build it. P frames, F latent frames, C channels, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from m2d.enlarging import UpscaleFilter
from m2d.fit import FilmFit
from m2d.pipeline.scenes import GivenScene
from m2d.recipe.plan import ScenePlan
from m2d.video.external import ResampledVideo
from m2d.video.fitting import model_frames
from m2d.video.packets import EncodedScene
from m2d.video.provenance import RunRecord, SceneRecord
from m2d.video.sound import KeptSound


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedScene:
    """One scene of a film.

    Attributes:
        run: Index of the run that made the scene.
        record: The scene's record in the film's provenance; None for an external video.
        latents_FCHW: The stored latents, float32; None if they have to be encoded from the frames.
        frames_PHWC: The frames, if decoding the latents would not reproduce them; of an external scene, the
            clip that a model is given.
        encoded: The scene's packets in the film; None if the scene has to be encoded again.
        colour_map_LC: Colour map that was applied after decoding, uint8 (256, 3); None for none.
        frames_sha256: Digest of the frames when the scene was made; None if the frames have changed since.
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
    def generating_run(self) -> int:
        """Index of the run that generated the scene, also if only the film's frames are left of it."""
        return self.run if self.record is None else self.record.run

    @property
    def is_film_only(self) -> bool:
        """Whether only the film file holds the scene: it has no latents, and no clip for a model."""
        return self.latents_FCHW is None and self.frames_PHWC is None

    @property
    def is_clipped(self) -> bool:
        """Whether a model is given a clip of the scene instead of all its frames."""
        return self.plan.film_frames is not None

    @property
    def is_decoded_from_film(self) -> bool:
        """Whether its frames are in the film alone, except for the clip that a model is given."""
        return self.is_film_only or (self.is_clipped and self.frames_PHWC is not None)

    def clip(self, *, upscale: int, fit: FilmFit | None) -> np.ndarray:
        """Return the frames that a model is given if there are no latents.

        Args:
            upscale: The film's factor.
            fit: The film's fit.
        """
        if self.frames_PHWC is not None:
            return self.frames_PHWC
        assert self.encoded is not None
        shape = self.plan.geometry
        if fit is not None:
            size = {"height": shape.height, "width": shape.width}
            return model_frames(self.encoded, fit, num_frames=shape.num_frames, **size)
        end, length = len(self.encoded), shape.num_frames
        # A scene shorter than the clip repeats its first frame.
        indices = [max(index, 0) for index in range(end - length, end)]
        return np.stack(self.encoded.picked(indices, upscale=upscale))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedFilm:
    """A film.

    Attributes:
        runs: The runs that made the scenes; the kind of the last can be `footage`.
        digest: Digest of the film's provenance; None for an external video.
        first_scene: Number of the first scene in its story.
        upscale: Factor by which the encoded picture is larger than the frames.
        fit: How scenes of the model fit the film; None where they are only enlarged.
        cuts_s: Given start times of an external video's scenes; None if they were detected.
        to_transcode: Source of the scenes that have to be encoded again before they can be copied, with no
            frames for other scenes; None if every scene can be copied.
        file_sha256: Digest of the external video's file.
        sound: The film's sound, with one span for each scene; None if it is silent.
        sheet: The film's contact sheet, a PNG file; empty if there is none.
        notes: How the film was converted, for the user.
    """

    title: str
    scenes: tuple[LoadedScene, ...]
    runs: tuple[RunRecord, ...]
    digest: str | None
    first_scene: int
    fps: int
    upscale: int
    upscale_filter: UpscaleFilter = "nearest"
    fit: FilmFit | None = None
    cuts_s: tuple[float, ...] | None = None
    to_transcode: ResampledVideo | None = None
    file_sha256: str | None = None
    sound: KeptSound | None = None
    sheet: bytes = b""
    notes: tuple[str, ...] = ()

    @property
    def plans(self) -> tuple[ScenePlan, ...]:
        """The plans of the scenes."""
        return tuple(scene.plan for scene in self.scenes)

    @property
    def first_given(self) -> int:
        """The first scene that a model can be given as it is; the last one if there is none."""
        given = (number for number, scene in enumerate(self.scenes) if not scene.is_film_only)
        return next(given, len(self.scenes) - 1)

    def given_scenes(self) -> dict[int, GivenScene]:
        """Return scene numbers and their latents or frames, as the pipeline takes them."""
        return {
            number: GivenScene(
                latents_FCHW=scene.latents_FCHW,
                frames_PHWC=scene.frames_PHWC,
                clip=partial(scene.clip, upscale=self.upscale, fit=self.fit),
            )
            for number, scene in enumerate(self.scenes)
        }
