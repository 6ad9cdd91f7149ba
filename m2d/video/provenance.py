"""Provenance: a document inside the film with its recipes, seeds, digests and versions.

Owns the schema and its text, sealed with its own digest. `provenance_builder` fills it in, `write` puts the
text into a film.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import Field, JsonValue, ValidationError

from m2d.errors import InputError
from m2d.joins import JoinKind
from m2d.limits import LARGEST_SEED, LONGEST_RECORD_BYTES, MOST_THREADS
from m2d.video.digests import canonical_json, film_digest, text_digest
from m2d.video.frame_times import SAME_RATE
from m2d.video.printable import counted, printable
from m2d.video.video_record import MOST, Count, Record, VideoRecord

SCHEMA_VERSION = 3

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Index = Annotated[int, Field(ge=0, le=MOST)]
# A film's metadata must not cause unlimited work.
ClipLength = Annotated[int, Field(ge=1, le=1000)]
# Of a run's windows, and of a window's scenes: a recipe has at most half as many.
_MOST_SEEN = 1000
RunKind = Literal["generate", "extend", "reroll", "footage"]


class ProvenanceError(InputError):
    """The provenance in a film is corrupt, of another version, or does not match the film."""


class ModelRecord(Record):
    """Which weights made the film."""

    name: str
    digest: str


class WindowRecord(Record):
    """One pass of the denoising loop: the scenes of the story it saw and the scenes it made, from 0."""

    scenes: tuple[Index, ...] = Field(min_length=1, max_length=_MOST_SEEN)
    targets: tuple[Index, ...] = Field(min_length=1, max_length=_MOST_SEEN)
    layout_digest: str

    @cached_property
    def context(self) -> frozenset[int]:
        """The scenes that it saw and did not make."""
        return frozenset(self.scenes) - frozenset(self.targets)


class MachineRecord(Record):
    """The machine that made a run's frames: models of its parts, never its name.

    Attributes:
        num_threads: CPU threads that torch computed with.
        processor: Model, and the vector instructions that torch used: `AMD EPYC, AVX2`.
        gpu: Model and version of CUDA; empty on the CPU.
    """

    num_threads: Annotated[int, Field(ge=1, le=MOST_THREADS)]
    processor: Annotated[str, Field(max_length=200)]
    gpu: Annotated[str, Field(max_length=200)] = ""


def name_threads(number: int) -> str:
    """Return `1 CPU thread` or `2 CPU threads`."""
    return counted(number, "CPU thread")


class RunRecord(Record):
    """One run that made scenes of the film, with everything needed to repeat it.

    Attributes:
        kind: `footage` is external video: scenes taken from another film, without a model.
        recipe: The recipe as it was run; its scenes are the ones made. Validate before use.
        parameters: The resolved parameters; of external video, its name and spans.
        model: None for external video.
        windows: The passes, in order; empty for external video.
        machine: None for external video, and in films of earlier versions.
    """

    kind: RunKind
    recipe: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    model: ModelRecord | None
    versions: dict[str, str]
    windows: Annotated[tuple[WindowRecord, ...], Field(max_length=_MOST_SEEN)] = ()
    machine: Annotated[MachineRecord | None, Field(exclude_if=lambda value: value is None)] = None

    @cached_property
    def made_in(self) -> Mapping[int, int]:
        """Scenes of the story that it made, each with the last window that made it."""
        return {scene: index for index, window in enumerate(self.windows) for scene in window.targets}


class SceneRecord(Record):
    """One scene: its place in the film, the run that made it, and digests of its latents and frames.

    Attributes:
        guidance_scale: None for external video, and so is the seed.
        first_frame: The film's frame in which it first appears.
        num_frames: Number of frames, those shared with its neighbours included.
        overlap: Number of frames shared with the scene before it.
        colour_map: Correction of its colours towards the scene before it: the three channels' new levels, 256
            bytes each, in base64; None when they were not corrected.
        colour_jump: How far the colours jump from the scene before it, in levels of 255; None for the first.
        frames_sha256: Digest of its frames before transitions were applied.
        packets_sha256: Digest of its shown frames as encoded; None when not recorded.
        clip_frames: Number of frames that a model is given of a scene of another length or rate: the last
            ones, with the first repeated when there are fewer. None when the model is given the whole scene.
        clip_sha256: Digest of that clip when it is stored beside the film; None when it is read from the
            film.
    """

    prompt: str
    negative_prompt: str = ""
    guidance_scale: float | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None
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


class Provenance(Record):
    """Everything needed to make the film again and to verify that it is the same.

    Attributes:
        runs: The runs that made the film, oldest first: its lineage.
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
        """Digest over the frame digests of all scenes."""
        return film_digest([scene.frames_sha256 for scene in self.scenes])

    @property
    def last_run(self) -> RunRecord:
        """The run that wrote this film."""
        return self.runs[-1]

    @property
    def shown_frames(self) -> tuple[int, ...]:
        """Number of frames from each scene's first frame to the next scene's."""
        following = [*(scene.first_frame for scene in self.scenes[1:]), self.num_frames]
        return tuple(after - scene.first_frame for scene, after in zip(self.scenes, following, strict=True))

    @property
    def num_frames(self) -> int:
        """Number of frames of the film."""
        last = self.scenes[-1]
        return last.first_frame + last.num_frames

    def digest(self) -> str:
        """The sha256 of the canonical JSON, in hex."""
        return text_digest(canonical_json(self.model_dump(mode="json")))

    def check_film(self, *, num_frames: int, width: int, height: int, fps: Fraction | None = None) -> None:
        """Compare the provenance with the film: frames, encoded picture in pixels, and rate if it is known.

        Raises:
            ProvenanceError: The provenance describes another film, or its runs do.
        """
        expected_size = "{}x{}".format(*self.video.written_size)
        expected = f"{self.num_frames} frames of {expected_size}"
        found = f"{num_frames} frames of {width}x{height}"
        if fps is not None and abs(float(fps) / self.video.written_fps - 1) > SAME_RATE:
            expected += f" at {self.video.written_fps:g} per second"
            found += f" at {float(fps):g}"
        if expected != found:
            raise ProvenanceError(
                f"the provenance describes {expected}, the film has {found}: it was changed after writing;"
                " use the original, or remove the film's tags to treat it as any other film"
            )

    def check_runs(self) -> None:
        """Check that sizes and lengths in the runs' recipes are the film's: a later run inherits them.

        A film with external video is left out: its scenes may have other sizes and rates than the model's.

        Raises:
            ProvenanceError: A run cannot have made the scenes that it says it made.
        """
        if any(run.kind == "footage" for run in self.runs):
            return
        for index, run in enumerate(self.runs):
            recipe = run.recipe.get("video")
            for claims in (recipe if isinstance(recipe, dict) else {}, run.parameters):
                for name in ("width", "height", "upscale", "fps"):
                    _check_claim(index, claims.get(name), getattr(self.video, name), f"{name}")
            made = sorted(run.made_in)
            for number, length in zip(made, _asked_lengths(run.recipe), strict=False):
                place = number - self.first_scene
                # A film of new scenes alone lacks those that earlier runs made.
                if 0 <= place < len(self.scenes) and self.scenes[place].run == index:
                    shown = self.scenes[place].num_frames
                    _check_claim(index, length, shown, "a scene of this number of frames:")


def seal_provenance(provenance: Provenance) -> str:
    """Write the canonical JSON of `provenance` with its own sha256 inside; ASCII only."""
    document = provenance.model_dump(mode="json")
    return canonical_json({**document, "sha256": text_digest(canonical_json(document))})


def parse_provenance(text: str) -> Provenance:
    """Read and validate the text of `seal_provenance`.

    Raises:
        ProvenanceError: Not JSON, of another schema version, corrupt, or with scenes that do not follow each
            other.
    """
    document = _load_json(text)
    if document.get("m2d_provenance") != SCHEMA_VERSION:
        version = printable(str(document.get("m2d_provenance")), limit=40)
        raise ProvenanceError(f"provenance of version {version}; this m2d reads version {SCHEMA_VERSION}")
    recorded = document.pop("sha256", None)
    try:
        found = text_digest(canonical_json(document))
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the provenance is not plain JSON") from error
    if recorded != found:
        raise ProvenanceError(
            "the provenance is corrupt: its sha256 does not match; it was changed after writing"
        )
    try:
        provenance = Provenance.model_validate(document)
    except ValidationError as error:
        raise ProvenanceError(f"the provenance is not one of m2d: {_first_problem(error)}") from error
    _check_ranges(provenance)
    return provenance


def is_provenance(text: str) -> bool:
    """Whether `text` looks like provenance and not like a comment by another program."""
    return text.startswith("{") and '"m2d_provenance"' in text


def _load_json(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_RECORD_BYTES:
        raise ProvenanceError(
            f"the provenance is {len(text)} characters long; {LONGEST_RECORD_BYTES} are allowed"
        )
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the provenance is not JSON") from error
    if not isinstance(document, dict):
        raise ProvenanceError(f"the provenance is a {type(document).__name__}, not a JSON object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "document"
    return printable(f"{place}: {problem['msg']}", limit=200)


def _check_ranges(provenance: Provenance) -> None:
    """Check that scenes follow each other, and that their runs and windows exist."""
    expected = 0
    for index, scene in enumerate(provenance.scenes):
        expected -= scene.overlap
        if scene.first_frame != expected:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance begins at frame {scene.first_frame}, not at {expected}"
            )
        if scene.run >= len(provenance.runs):
            raise ProvenanceError(
                f"scenes[{index}] of the provenance is of run {scene.run}, which does not exist"
            )
        if index == 0 and scene.join == "crossfade":
            raise ProvenanceError("scenes[0] of the provenance is a crossfade with nothing before it")
        if (scene.join == "crossfade") != (scene.overlap > 0) or scene.overlap >= scene.num_frames:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance is a {scene.join} that shares {scene.overlap} frames"
            )
        expected += scene.num_frames
    windows = [window for run in provenance.runs for window in run.windows]
    if any(not set(window.targets) <= set(window.scenes) for window in windows):
        raise ProvenanceError("a run of the provenance made scenes that it did not see")
    numbers = [number for window in windows for number in window.scenes]
    if max(numbers, default=0) >= provenance.first_scene + len(provenance.scenes):
        raise ProvenanceError(f"a run of the provenance made scene {max(numbers)}, which is not in the film")


def _check_claim(run: int, claim: JsonValue, value: float, what: str) -> None:
    if isinstance(claim, int | float) and claim != value:
        # No float can hold some whole numbers.
        named = printable(str(claim), limit=20)
        raise ProvenanceError(
            f"runs[{run}] of the provenance has {what} {named}, the film {value:.6g}: it was changed"
            " after writing"
        )


def _asked_lengths(recipe: dict[str, JsonValue]) -> list[JsonValue]:
    """Return the frames that a stored recipe asks for, for each scene; None where it does not say."""
    video, scenes = recipe.get("video"), recipe.get("scenes")
    usual = video.get("num_frames") if isinstance(video, dict) else None
    own = scenes if isinstance(scenes, list) else []
    return [(scene.get("frames") if isinstance(scene, dict) else None) or usual for scene in own]
