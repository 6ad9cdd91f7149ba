"""Where a film comes from, as a document that travels inside it: recipe, seeds, digests, versions.

Owns the document, its canonical JSON and its digests. What may not be in it is `privacy`'s rule; putting it
into a film and taking it out again is the business of `write` and `read`.
"""

from __future__ import annotations

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
from m2d.video.printable import REPLACEMENT, printable
from m2d.video.privacy import last_part, local_names, refuse_private, without_folders

SCHEMA_VERSION = 1
LONGEST_TEXT_BYTES = 16 << 20
RECORDED_PACKAGES = ("m2d", "torch", "diffusers", "transformers", "numpy", "av", "imageio-ffmpeg")

_SURROGATE = re.compile("[\ud800-\udfff]")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]


class ProvenanceError(InputError):
    """The provenance in a film is damaged, of another version, or does not tell the truth about the film."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelRecord(_Record):
    """Which weights made the film."""

    name: str
    digest: str


class VideoRecord(_Record):
    """The film's size as the model made it, and by which factor the written picture is larger."""

    width: Count
    height: Count
    upscale: Count
    fps: Annotated[float, Field(gt=0)]


class SceneRecord(_Record):
    """One scene: where it is in the film and the digests of what it was decoded from and to."""

    prompt: str
    seed: int
    first_frame: Annotated[int, Field(ge=0)]
    num_frames: Count
    latents_sha256: Sha256 | None
    frames_sha256: Sha256


class Provenance(_Record):
    """Everything needed to make the film again and to see that it is the same.

    Attributes:
        recipe: The recipe as it was read; data to be checked like any file, never trusted.
        parameters: The resolved parameters of the run.
        layout_digest: `SceneLayout.digest()` of the run.
        versions: Package name to version.
        frames_sha256: `frames_digest` of all scenes, before encoding.
        parents: Digests of the provenance of the films this one continues.
    """

    m2d_provenance: Literal[1] = 1
    title: str
    recipe: dict[str, JsonValue]
    parameters: dict[str, JsonValue]
    model: ModelRecord
    layout_digest: str
    versions: dict[str, str]
    video: VideoRecord
    scenes: tuple[SceneRecord, ...] = Field(min_length=1)
    frames_sha256: Sha256
    parents: tuple[str, ...] = ()

    @property
    def num_frames(self) -> int:
        """Frames of the whole film."""
        return sum(scene.num_frames for scene in self.scenes)

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
    """One scene as the run made it. P frames, F latent frames, C channels, H W height and width.

    Attributes:
        prompt: The prompt as the model got it.
        seed: The scene's own seed.
        frames_PHWC: uint8 frames before upscaling and encoding.
        latents_FCHW: The denoised latents; None when the scene did not come from latents.
    """

    prompt: str
    seed: int
    frames_PHWC: np.ndarray
    latents_FCHW: np.ndarray | None


def build_provenance(
    *,
    title: str,
    recipe: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: ModelRecord,
    layout_digest: str,
    scenes: Sequence[MadeScene],
    fps: float,
    upscale: int,
    parents: Sequence[str] = (),
) -> Provenance:
    """Write down where a film comes from.

    Of absolute paths in `recipe` and `parameters` only the last part is kept.

    Args:
        title: The story's title.
        recipe: The recipe as JSON values.
        parameters: The resolved parameters as JSON values.
        model: Name and digest of the weights.
        layout_digest: `SceneLayout.digest()`.
        scenes: All scenes in the film's order.
        fps: Frames per second of the film.
        upscale: Integer factor by which the written picture is larger than the frames.
        parents: Digests of the films this one continues.

    Raises:
        PrivacyError: A path, host or user name is left in it.
        ValueError: No scenes, or values that are not JSON.
    """
    if not scenes:
        raise ValueError("a film needs at least one scene")
    height, width = scenes[0].frames_PHWC.shape[1:3]
    document = {
        "m2d_provenance": SCHEMA_VERSION,
        "title": title,
        "recipe": without_folders(dict(recipe)),
        "parameters": without_folders(dict(parameters)),
        "model": {"name": last_part(model.name), "digest": model.digest},
        "layout_digest": layout_digest,
        "versions": installed_versions(),
        "video": {"width": width, "height": height, "upscale": upscale, "fps": fps},
        "scenes": _scene_records(scenes),
        "frames_sha256": frames_digest([scene.frames_PHWC for scene in scenes]),
        "parents": list(parents),
    }
    # Through JSON once, so that what is kept is what a reader of the film will get.
    document = json.loads(
        _SURROGATE.sub(REPLACEMENT, json.dumps(document, ensure_ascii=False, allow_nan=False))
    )
    refuse_private(document, names=local_names())
    return Provenance.model_validate(document)


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


def frames_digest(scenes: Sequence[np.ndarray]) -> str:
    """The sha256 over the raw RGB frames of all scenes, in hex.

    Args:
        scenes: uint8 PHWC arrays.
    """
    digest = hashlib.sha256()
    for frames_PHWC in scenes:
        _add_array(digest, frames_PHWC)
    return digest.hexdigest()


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
        num_frames = scene.frames_PHWC.shape[0]
        latents = scene.latents_FCHW
        records.append(
            {
                "prompt": scene.prompt,
                "seed": scene.seed,
                "first_frame": first_frame,
                "num_frames": num_frames,
                "latents_sha256": None if latents is None else latents_digest(latents),
                "frames_sha256": frames_digest([scene.frames_PHWC]),
            }
        )
        first_frame += num_frames
    return records


def _add_array(digest: Any, array: np.ndarray) -> None:
    # Shape and type first: the same bytes in another shape are another film.
    digest.update(f"{array.dtype.str}{array.shape}".encode("ascii"))
    digest.update(np.ascontiguousarray(array).data)


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
    expected = 0
    for index, scene in enumerate(provenance.scenes):
        if scene.first_frame != expected:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance begins at frame {scene.first_frame}, not at {expected}"
            )
        expected += scene.num_frames
