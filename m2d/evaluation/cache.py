"""Measurements of stories on disk, so that an interrupted or repeated evaluation decodes no story twice.

A file's name is the digest of the videos' bytes, the scenes' places and the networks' identity. A corrupt
file is ignored and written again.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from m2d.cache_root import cache_root
from m2d.evaluation.frame_measures import FrameStatistics
from m2d.evaluation.measure import Instruments, SceneMeasures, StoryMeasures, measure_story
from m2d.evaluation.stories import VideoStory
from m2d.files import sha256_file, write_bytes
from m2d.folders import make_folder
from m2d.tensor_files import load_arrays
from m2d.video.digests import canonical_json, text_digest

logger = logging.getLogger(__name__)

# Raise it when a measurement changes.
_VERSION = 1
_CUTS = "cuts"
_LARGEST_BYTES = 1 << 30


def measured(story: VideoStory, instruments: Instruments) -> StoryMeasures:
    """Return the measurements of a story from the cache, or measure and store them.

    Raises: as `measure_story`.
        OutputError: The cache cannot be written.
    """
    path = _place(story, instruments)
    found = _read(path, instruments, num_scenes=len(story.scenes))
    if found is not None:
        return found
    measures = measure_story(story, instruments)
    make_folder(path.parent)
    write_bytes(path, save(_tensors(measures)))
    return measures


def _place(story: VideoStory, instruments: Instruments) -> Path:
    digests = {film: sha256_file(film) for film in story.films}
    key = {
        "version": _VERSION,
        "scenes": [[digests[scene.film], scene.start, scene.stop] for scene in story.scenes],
        "upscale": story.upscale,
        "networks": instruments.identity(),
        "cuts": instruments.finds_cuts and bool(story.cuts),
    }
    digest = text_digest(canonical_json(key))
    return cache_root() / "evaluation" / digest[:2] / f"{digest}.safetensors"


def _tensors(measures: StoryMeasures) -> dict[str, np.ndarray]:
    tensors = {} if measures.cuts is None else {_CUTS: np.array(measures.cuts, dtype=np.int64)}
    for number, scene in enumerate(measures.scenes):
        tensors[f"{number}.numbers"] = np.array(
            [*scene.statistics, scene.jump, scene.within, scene.across], dtype=np.float64
        )
        tensors[f"{number}.picture"] = np.frombuffer(scene.picture, dtype=np.uint8)
        for name, vector in scene.features.items():
            tensors[f"{number}.features.{name}"] = np.ascontiguousarray(vector)
    return tensors


def _read(path: Path, instruments: Instruments, *, num_scenes: int) -> StoryMeasures | None:
    try:
        tensors: dict[str, np.ndarray] = load_arrays(path, limit_bytes=_LARGEST_BYTES)
        scenes = tuple(_scene(tensors, number, instruments) for number in range(num_scenes))
        cuts = tuple(int(cut) for cut in tensors[_CUTS]) if _CUTS in tensors else None
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, TypeError) as error:
        logger.warning("%s: ignored, it is corrupt: %s", path.name, error)
        return None
    return StoryMeasures(scenes=scenes, cuts=cuts)


def _scene(tensors: dict[str, np.ndarray], number: int, instruments: Instruments) -> SceneMeasures:
    numbers = [float(each) for each in tensors[f"{number}.numbers"]]
    contrast, colour, sharpness, motion, smoothness, num_frames, jump, within, across = numbers
    return SceneMeasures(
        statistics=FrameStatistics(
            contrast=contrast,
            colour=colour,
            sharpness=sharpness,
            motion=motion,
            smoothness=smoothness,
            num_frames=int(num_frames),
        ),
        jump=jump,
        features={name: tensors[f"{number}.features.{name}"] for name in instruments.extractors},
        within=within,
        across=across,
        picture=tensors[f"{number}.picture"].tobytes(),
    )
