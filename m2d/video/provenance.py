"""Where a film comes from, as a document that travels inside it: recipe, seeds, digests, versions.

Owns the document, its canonical JSON and its digests. What may not be in it is `privacy`'s rule; putting it
into a film and taking it out again is the business of `write` and `read`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from m2d.errors import InputError
from m2d.joins import CUT, Join, JoinKind
from m2d.video.printable import REPLACEMENT, printable
from m2d.video.privacy import last_part, local_names, refuse_private, without_folders

SCHEMA_VERSION = 3
LONGEST_TEXT_BYTES = 16 << 20
RECORDED_PACKAGES = ("m2d", "torch", "diffusers", "transformers", "numpy", "av", "imageio-ffmpeg")

_SURROGATE = re.compile("[\ud800-\udfff]")

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
        return _digest_text(canonical_json(self.model_dump(mode="json")))

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


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeScene:
    """One scene as it was made. P frames, F latent frames, C channels, H W height and width.

    Attributes:
        prompt: The prompt as the model got it.
        negative_prompt: See `SceneRecord`, as for all fields of the same name.
        seed: The scene's own seed; None for footage.
        run: Index of the run that made it.
        frames_PHWC: uint8 frames before joining, upscaling and encoding; None when `kept` tells of them. Of
            footage that only a clip is given of, some of its frames, that clip last.
        latents_FCHW: The denoised latents; None when the scene did not come from latents.
        colour_map_LC: uint8 (256, 3), as `SceneRecord` keeps it in text.
        kept: What was told of it in a film that it is taken over from, frames as they are there.
        packets_sha256: As in `SceneRecord`, once it is encoded.
    """

    prompt: str
    negative_prompt: str = ""
    guidance_scale: float | None = None
    seed: int | None
    run: int = 0
    frames_PHWC: np.ndarray | None
    latents_FCHW: np.ndarray | None
    join: Join = CUT
    colour_map_LC: np.ndarray | None = None
    colour_jump: float | None = None
    kept: SceneRecord | None = None
    packets_sha256: str | None = None

    @property
    def num_frames(self) -> int:
        """Its frames, those shared with its neighbours included."""
        if self.kept is not None:
            return self.kept.num_frames
        assert self.frames_PHWC is not None
        return len(self.frames_PHWC)

    @property
    def frames_sha256(self) -> str:
        """See `SceneRecord`."""
        if self.kept is not None:
            return self.kept.frames_sha256
        assert self.frames_PHWC is not None
        return frames_digest([self.frames_PHWC])


def build_run_record(
    *,
    kind: RunKind,
    recipe: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: ModelRecord | None,
    windows: Sequence[WindowRecord],
) -> RunRecord:
    """Write down one run with the versions of what runs now; of absolute paths only the last part is kept.

    Raises:
        PrivacyError: A path, host or user name is left in it.
        ValueError: Values that are not JSON.
    """
    document = {
        "kind": kind,
        "recipe": without_folders(dict(recipe)),
        "parameters": without_folders(dict(parameters)),
        "model": None if model is None else {"name": last_part(model.name), "digest": model.digest},
        "versions": installed_versions(),
        "windows": [window.model_dump(mode="json") for window in windows],
    }
    document = _through_json(document)
    refuse_private(document, names=local_names())
    return RunRecord.model_validate(document)


def build_provenance(
    *,
    title: str,
    runs: Sequence[RunRecord],
    scenes: Sequence[MadeScene],
    fps: float,
    upscale: int,
    first_scene: int = 0,
    parents: Sequence[str] = (),
    encoding: str = "",
) -> Provenance:
    """Write down where a film comes from.

    Args:
        title: The story's title.
        runs: The runs that made it, oldest first.
        scenes: All scenes in the film's order.
        fps: Frames per second of the film.
        upscale: Integer factor by which the written picture is larger than the frames.
        first_scene: Number, in the story, of the film's first scene.
        parents: Digests of the films this one continues.
        encoding: Identity of how the scenes are encoded.

    Raises:
        PrivacyError: A path, host or user name is left in it.
        ValueError: No scenes, no runs, scenes of other runs, or no frames that tell the film's size.
    """
    if not scenes or any(not 0 <= scene.run < len(runs) for scene in scenes):
        raise ValueError(f"{len(scenes)} scenes of runs {[scene.run for scene in scenes]}, got {len(runs)}")
    height, width = next(scene.frames_PHWC.shape[1:3] for scene in scenes if scene.frames_PHWC is not None)
    document = {
        "m2d_provenance": SCHEMA_VERSION,
        "title": title,
        "runs": [run.model_dump(mode="json") for run in runs],
        "video": {"width": width, "height": height, "upscale": upscale, "fps": fps, "encoding": encoding},
        "scenes": _scene_records(scenes),
        "first_scene": first_scene,
        "parents": list(parents),
    }
    document = _through_json(document)
    refuse_private(document, names=local_names())
    return Provenance.model_validate(document)


def _through_json(document: dict[str, Any]) -> dict[str, Any]:
    """What a reader of the film will get, so that just this is kept."""
    text = _SURROGATE.sub(REPLACEMENT, json.dumps(document, ensure_ascii=False, allow_nan=False))
    read: dict[str, Any] = json.loads(text)
    return read


def seal_provenance(provenance: Provenance) -> str:
    """The canonical JSON of `provenance` with its own sha256 inside; ASCII only."""
    document = provenance.model_dump(mode="json")
    return canonical_json({**document, "sha256": _digest_text(canonical_json(document))})


def parse_provenance(text: str) -> Provenance:
    """Read what `seal_provenance` wrote, trusting nothing.

    Raises:
        ProvenanceError: Not JSON, of another schema version, damaged, or with scenes that do not join.
    """
    document = _load_json(text)
    if document.get("m2d_provenance") != SCHEMA_VERSION:
        version = printable(str(document.get("m2d_provenance")), limit=40)
        raise ProvenanceError(f"provenance of version {version}; this m2d reads version {SCHEMA_VERSION}")
    told = document.pop("sha256", None)
    try:
        found = _digest_text(canonical_json(document))
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the provenance is not plain JSON") from error
    if told != found:
        raise ProvenanceError(
            "the provenance is damaged: its sha256 does not match; it was changed after writing"
        )
    try:
        provenance = Provenance.model_validate(document)
    except ValidationError as error:
        raise ProvenanceError(f"the provenance is not one of m2d: {_first_problem(error)}") from error
    _check_ranges(provenance)
    return provenance


def is_provenance(text: str) -> bool:
    """Whether `text` claims to be provenance; a comment that somebody else wrote does not."""
    return text.startswith("{") and '"m2d_provenance"' in text


def canonical_json(value: object) -> str:
    """JSON that is the same for equal values: sorted keys, no blanks, ASCII only.

    Raises:
        ValueError: `value` holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class FramesDigest:
    """The `frames_digest` of one scene whose frames come one after the other."""

    def __init__(self, *, num_frames: int, height: int, width: int) -> None:
        """Expect so many frames of this size."""
        self._digest = hashlib.sha256()
        _add_shape(self._digest, np.dtype(np.uint8), (num_frames, height, width, 3))

    def add(self, frame_HWC: np.ndarray) -> None:
        """Take up the next frame, uint8 RGB."""
        self._digest.update(np.ascontiguousarray(frame_HWC).data)

    def hexdigest(self) -> str:
        """The digest of the frames so far."""
        return self._digest.hexdigest()


def frames_digest(scenes: Sequence[np.ndarray]) -> str:
    """The sha256 over the raw RGB frames of all scenes, in hex.

    Args:
        scenes: uint8 PHWC arrays.
    """
    digest = hashlib.sha256()
    for frames_PHWC in scenes:
        _add_array(digest, frames_PHWC)
    return digest.hexdigest()


def film_digest(scenes: Sequence[str]) -> str:
    """One digest over those of a film's scenes: it grows with the film, and nothing is read again for it."""
    return _digest_text("\n".join(scenes))


def latents_digest(latents_FCHW: np.ndarray) -> str:
    """The sha256 over shape, dtype and values of one scene's latents, in hex."""
    digest = hashlib.sha256()
    _add_array(digest, latents_FCHW)
    return digest.hexdigest()


def installed_versions() -> dict[str, str]:
    """Python's version and that of every package that can change a frame; imports none of them."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _scene_records(scenes: Sequence[MadeScene]) -> list[dict[str, JsonValue]]:
    records: list[dict[str, JsonValue]] = []
    first_frame = 0
    for scene in scenes:
        latents = scene.latents_FCHW
        first_frame -= scene.join.num_frames
        records.append(
            {
                "prompt": scene.prompt,
                "negative_prompt": scene.negative_prompt,
                "guidance_scale": scene.guidance_scale,
                "seed": scene.seed,
                "run": scene.run,
                "first_frame": first_frame,
                "num_frames": scene.num_frames,
                "join": scene.join.kind,
                "overlap": scene.join.num_frames,
                "colour_map": _text_of_map(scene.colour_map_LC),
                "colour_jump": None if scene.colour_jump is None else round(scene.colour_jump, 2),
                "latents_sha256": None if latents is None else latents_digest(latents),
                "frames_sha256": scene.frames_sha256,
                "packets_sha256": scene.packets_sha256,
                "clip_frames": None if scene.kept is None else scene.kept.clip_frames,
                "clip_sha256": None if scene.kept is None else scene.kept.clip_sha256,
            }
        )
        first_frame += scene.num_frames
    return records


def _text_of_map(map_LC: np.ndarray | None) -> str | None:
    if map_LC is None:
        return None
    return base64.b64encode(np.ascontiguousarray(map_LC.T).tobytes()).decode("ascii")


def _add_array(digest: Any, array: np.ndarray) -> None:
    _add_shape(digest, array.dtype, array.shape)
    digest.update(np.ascontiguousarray(array).data)


def _add_shape(digest: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    # Shape and type first: the same bytes in another shape are another film.
    digest.update(f"{dtype.str}{shape}".encode("ascii"))


def _digest_text(text: str) -> str:
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _load_json(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_TEXT_BYTES:
        raise ProvenanceError(
            f"the provenance is {len(text)} characters long; {LONGEST_TEXT_BYTES} are allowed"
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
    """Check what digests cannot: that scenes join, and name runs and windows that are there."""
    expected = 0
    for index, scene in enumerate(provenance.scenes):
        expected -= scene.overlap
        if scene.first_frame != expected:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance begins at frame {scene.first_frame}, not at {expected}"
            )
        if scene.run >= len(provenance.runs):
            raise ProvenanceError(
                f"scenes[{index}] of the provenance is of run {scene.run}, which is not there"
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
