"""Build a film's provenance: runs with their versions, scenes with their digests.

Owns `MadeScene`, the scene as the model made it. `privacy` decides what may not be recorded.
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

from m2d.enlarging import Enlarging
from m2d.joins import CUT, Join
from m2d.video.digests import array_digest
from m2d.video.printable import REPLACEMENT
from m2d.video.privacy import last_part, local_names, refuse_private, without_folders
from m2d.video.provenance import (
    SCHEMA_VERSION,
    MachineRecord,
    ModelRecord,
    Provenance,
    RunKind,
    RunRecord,
    SceneRecord,
    WindowRecord,
)

RECORDED_PACKAGES = ("m2d", "torch", "diffusers", "transformers", "numpy", "av", "imageio-ffmpeg")
# Packages that compute a run's frames with one backend alone.
_OF_BACKENDS = {"onnx": ("onnxruntime", "onnxruntime-gpu"), "tensorrt": ("tensorrt-cu13",)}

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeScene:
    """One scene as the model made it. P frames, F latent frames, C channels, H W height and width.

    Fields named as in `SceneRecord` have the same meaning.

    Attributes:
        prompt: The prompt as the model got it.
        seed: The scene's own seed; None for external video.
        frames_PHWC: uint8 frames before transitions, upscaling and encoding; None when `kept` describes them.
            Of external video that the model is given a clip of, some frames with that clip at the end.
        latents_FCHW: The denoised latents; None when the scene was not made from latents.
        colour_map_LC: uint8 (256, 3); `SceneRecord` stores it as text.
        film_frames: Number of frames in a film of another rate than the model's; None in any other film.
        kept: The record of a scene that is taken unchanged from an existing film.
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
    film_frames: int | None = None
    kept: SceneRecord | None = None
    packets_sha256: str | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames, those shared with its neighbours included."""
        if self.kept is not None:
            return self.kept.num_frames
        if self.film_frames is not None:
            return self.film_frames
        assert self.frames_PHWC is not None
        return len(self.frames_PHWC)

    @property
    def clip_frames(self) -> int | None:
        """Number of frames that a model is given, where it is another one."""
        if self.kept is not None:
            return self.kept.clip_frames
        if self.film_frames is None:
            return None
        assert self.frames_PHWC is not None
        return len(self.frames_PHWC)

    @property
    def frames_sha256(self) -> str:
        """Digest of its frames before transitions were applied."""
        if self.kept is not None:
            return self.kept.frames_sha256
        assert self.frames_PHWC is not None
        return array_digest(self.frames_PHWC)


def build_run_record(
    *,
    kind: RunKind,
    recipe: Mapping[str, Any],
    parameters: Mapping[str, Any],
    model: ModelRecord | None,
    windows: Sequence[WindowRecord],
    machine: MachineRecord | None = None,
) -> RunRecord:
    """Record one run with the versions of the installed packages; absolute paths are cut to their last part.

    Raises:
        PrivacyError: It holds a path, host or user name.
        ValueError: Values that are not JSON.
    """
    document = {
        "kind": kind,
        "recipe": without_folders(dict(recipe)),
        "parameters": without_folders(dict(parameters)),
        "model": None if model is None else {"name": last_part(model.name), "digest": model.digest},
        "versions": installed_versions(str(parameters.get("backend", ""))),
        "windows": [window.model_dump(mode="json") for window in windows],
        **({} if machine is None else {"machine": machine.model_dump(mode="json")}),
    }
    return RunRecord.model_validate(_as_read(document))


def build_provenance(
    *,
    title: str,
    runs: Sequence[RunRecord],
    scenes: Sequence[MadeScene],
    fps: float,
    upscale: Enlarging,
    first_scene: int = 0,
    parents: Sequence[str] = (),
    encoding: str = "",
) -> Provenance:
    """Build the provenance of a film; arguments as in `Provenance` and `VideoRecord`.

    Raises:
        PrivacyError: It holds a path, host or user name.
        ValueError: No scenes, no runs, scenes of other runs, or no frames to take the film's size from.
    """
    if not scenes or any(not 0 <= scene.run < len(runs) for scene in scenes):
        raise ValueError(f"{len(scenes)} scenes of runs {[scene.run for scene in scenes]}, got {len(runs)}")
    height, width = next(scene.frames_PHWC.shape[1:3] for scene in scenes if scene.frames_PHWC is not None)
    document = {
        "m2d_provenance": SCHEMA_VERSION,
        "title": title,
        "runs": [run.model_dump(mode="json") for run in runs],
        "video": {
            "width": width,
            "height": height,
            "upscale": upscale.factor,
            "upscale_filter": upscale.filter,
            "fps": fps,
            "encoding": encoding,
        },
        "scenes": _scene_records(scenes),
        "first_scene": first_scene,
        "parents": list(parents),
    }
    return Provenance.model_validate(_as_read(document))


def _as_read(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document as a reader of the film gets it, after checking that it holds nothing private."""
    text = _SURROGATE.sub(REPLACEMENT, json.dumps(document, ensure_ascii=False, allow_nan=False))
    read: dict[str, Any] = json.loads(text)
    refuse_private(read, names=local_names())
    return read


def installed_versions(backend: str = "") -> dict[str, str]:
    """Return the versions of Python and of every package that can change a frame, without importing them.

    Args:
        backend: Name of the backend that runs the transformer; packages of others are left out.
    """
    versions = {"python": platform.python_version()}
    for package in (*RECORDED_PACKAGES, *_OF_BACKENDS.get(backend, ())):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _scene_records(scenes: Sequence[MadeScene]) -> list[dict[str, JsonValue]]:
    records: list[dict[str, JsonValue]] = []
    first_frame = 0
    for scene in scenes:
        latents, map_LC = scene.latents_FCHW, scene.colour_map_LC
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
                "colour_map": None
                if map_LC is None
                else base64.b64encode(map_LC.T.tobytes()).decode("ascii"),
                "colour_jump": None if scene.colour_jump is None else round(scene.colour_jump, 2),
                "latents_sha256": None if latents is None else array_digest(latents),
                "frames_sha256": scene.frames_sha256,
                "packets_sha256": scene.packets_sha256,
                "clip_frames": scene.clip_frames,
                "clip_sha256": None if scene.kept is None else scene.kept.clip_sha256,
            }
        )
        first_frame += scene.num_frames
    return records
