"""What was made, written down as provenance: runs with their versions, scenes with their digests.

Owns the scene as it leaves the model and what is written about it. What may not be written is `privacy`'s
rule.
"""

from __future__ import annotations

import base64
import json
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
from pydantic import JsonValue

from m2d.joins import CUT, Join
from m2d.video.digests import frames_digest, latents_digest
from m2d.video.printable import REPLACEMENT
from m2d.video.privacy import last_part, local_names, refuse_private, without_folders
from m2d.video.provenance import (
    SCHEMA_VERSION,
    ModelRecord,
    Provenance,
    RunKind,
    RunRecord,
    SceneRecord,
    WindowRecord,
)

RECORDED_PACKAGES = ("m2d", "torch", "diffusers", "transformers", "numpy", "av", "imageio-ffmpeg")

_SURROGATE = re.compile("[\ud800-\udfff]")


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
