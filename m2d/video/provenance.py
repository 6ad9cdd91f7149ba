"""Where a film comes from, as a document that travels inside it: recipe, seeds, digests, versions.

Owns the document. `provenance_builder` fills it in, `provenance_text` turns it into text and back, and
`write` puts it into a film.
"""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from m2d.errors import InputError
from m2d.joins import JoinKind
from m2d.video.digests import canonical_json, film_digest, text_digest

SCHEMA_VERSION = 3

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
# A small claim in a film must not make much work.
ClipLength = Annotated[int, Field(ge=1, le=1000)]
RunKind = Literal["generate", "extend", "reroll", "footage"]


class ProvenanceError(InputError):
    """The provenance in a film is damaged, of another version, or does not tell the truth about the film."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRecord(_Record):
    """Which weights made the film."""

    name: str
    digest: str


class VideoRecord(_Record):
    """The film's size as the model made it, how many times larger it is written, and how it was encoded.

    Attributes:
        encoding: Identity of encoder and settings; empty when it is not told.
    """

    width: Count
    height: Count
    upscale: Count
    fps: Annotated[float, Field(gt=0)]
    encoding: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""


class WindowRecord(_Record):
    """One pass of the denoising loop: the scenes of the story it saw, and those it made; from 0."""

    scenes: tuple[Index, ...] = Field(min_length=1)
    targets: tuple[Index, ...] = Field(min_length=1)
    layout_digest: str


class RunRecord(_Record):
    """One run that made scenes of the film, with all that is needed to repeat it.

    Attributes:
        kind: `footage` is no run of a model: scenes of another film, taken over.
        recipe: The recipe as it was run; its scenes are the ones made. Data to be checked, never trusted.
        parameters: The resolved parameters; for footage, what was taken from where.
        model: None for footage.
        versions: Package name to version.
        windows: The passes, in order; none for footage.
    """

    kind: RunKind
    recipe: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    model: ModelRecord | None
    versions: dict[str, str]
    windows: tuple[WindowRecord, ...] = ()


class SceneRecord(_Record):
    """One scene: where it is in the film, which run made it, and digests of its latents and frames.

    Attributes:
        negative_prompt: What it was steered away from.
        guidance_scale: None for footage; so is the seed.
        run: Index of the run that made it.
        first_frame: Frame of the film with which it begins to appear.
        num_frames: Its frames, those shared with its neighbours included.
        join: How it follows the scene before it.
        overlap: Frames shared with the scene before it.
        colour_map: How its colours were corrected towards the scene before it: the three channels' new
            levels, 256 bytes each, in base64; None when they were not.
        colour_jump: How far the colours jump from the scene before it, in levels of 255; None for the first.
        frames_sha256: Digest of its frames before they were joined with others.
        packets_sha256: Digest of what is shown of it, as it was encoded; None when it is not told.
        clip_frames: Frames of the clip that a model is given in place of footage of another length: its last
            ones, the first of them held when it has fewer. None when the model is given all of it.
        clip_sha256: Digest of that clip when it is kept beside the film; None when it comes from the film.
    """

    prompt: str
    negative_prompt: str = ""
    guidance_scale: float | None = None
    seed: int | None
    run: Index
    first_frame: Index
    num_frames: Count
    join: JoinKind = "cut"
    overlap: Index = 0
    colour_map: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{1024}$")] | None = None
    colour_jump: float | None = None
    latents_sha256: Sha256 | None
    frames_sha256: Sha256
    packets_sha256: Sha256 | None = None
    clip_frames: ClipLength | None = None
    clip_sha256: Sha256 | None = None

    @property
    def colour_map_LC(self) -> np.ndarray | None:
        """The colour map as an array, uint8 (256, 3)."""
        if self.colour_map is None:
            return None
        return np.frombuffer(base64.b64decode(self.colour_map), np.uint8).reshape(3, 256).T


class Provenance(_Record):
    """Everything needed to make the film again and to see that it is the same.

    Attributes:
        runs: The runs that made the film, oldest first: its lineage.
        scenes: All scenes in the film's order.
        first_scene: Number, in the story, of the film's first scene; above 0 in a film of new scenes alone.
        parents: Digests of the provenance of the films this one continues.
    """

    m2d_provenance: Literal[3] = 3
    title: str
    runs: tuple[RunRecord, ...] = Field(min_length=1)
    video: VideoRecord
    scenes: tuple[SceneRecord, ...] = Field(min_length=1)
    first_scene: Index = 0
    parents: tuple[str, ...] = ()

    @property
    def frames_sha256(self) -> str:
        """Digest over those of all scenes' frames, before joining and encoding."""
        return film_digest([scene.frames_sha256 for scene in self.scenes])

    @property
    def last_run(self) -> RunRecord:
        """The run that wrote this film."""
        return self.runs[-1]

    @property
    def shown_frames(self) -> tuple[int, ...]:
        """Frames from each scene's first one to the next scene's."""
        following = [*(scene.first_frame for scene in self.scenes[1:]), self.num_frames]
        return tuple(after - scene.first_frame for scene, after in zip(self.scenes, following, strict=True))

    @property
    def num_frames(self) -> int:
        """Frames of the whole film."""
        last = self.scenes[-1]
        return last.first_frame + last.num_frames

    def digest(self) -> str:
        """The sha256 of the canonical JSON, in hex."""
        return text_digest(canonical_json(self.model_dump(mode="json")))

    def check_film(self, *, num_frames: int, width: int, height: int) -> None:
        """Compare with what a film really holds.

        Args:
            num_frames: Decoded frames.
            width: Width of the written picture in pixels.
            height: Height of the written picture in pixels.

        Raises:
            ProvenanceError: The film is another one than the provenance describes.
        """
        told_width, told_height = (
            self.video.width * self.video.upscale,
            self.video.height * self.video.upscale,
        )
        told = f"{self.num_frames} frames of {told_width}x{told_height}"
        found = f"{num_frames} frames of {width}x{height}"
        if told != found:
            raise ProvenanceError(
                f"the provenance tells of {told}, the film has {found}: it was changed after writing; use the"
                " original, or remove the film's tags to have it taken as any other film"
            )
