"""Puppet stories rendered shot by shot, without films: what `relate` reads of them, and what it could know.

Measures the deviations that `m2d.curation.puppet_likeness` assumes, and what its limit keeps. S shots, D
answers.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.puppet_films import default_scene, read_films
from m2d.curation.puppet_likeness import LEAST_EVIDENCE, evidence_of
from m2d.evaluation.puppet_embedder import CLASS_SIZES, READER, answers_of, load_puppet_embedder
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, load_classifier, reading_accuracy
from m2d.puppet.clips import draw_clips
from m2d.puppet.film_files import SCENES_DRAWN, TRANSITION_S, FilmPlan, FilmShot, film_shots
from m2d.puppet.labels import ABSENT, UNPROMPTED_RANGES, class_labels, unprompted_numbers
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.story import sample_story, story_generator

_SEED = 205
_SHUFFLED = 10_000
# A shot of 2.5 s at 12 frames per second, the shortest of `m2d.puppet.film_files`.
_SHOT_FRAMES = 30
# As stages `shots` and `filter` do: frames between stills at 12 a second, frames trimmed, fewest frames.
_STILL_STEP, _TRIM, _FEWEST = 3, 2, 24
_LIMITS = np.arange(0.0, 6.0, 0.5)


class _Shots(NamedTuple):
    """Shots of stories in order, with what the classifier reads and what is true, (S, D) each."""

    stories: np.ndarray
    read: np.ndarray
    true: np.ndarray


def measure_fit(num_stories: int) -> dict[str, Any]:
    """Measure how exactly shots are read, and what each limit of the evidence would keep."""
    shots = _rendered(num_stories)
    values = slice(-len(UNPROMPTED_RANGES), None)
    errors_SV = shots.read[:, values] - shots.true[:, values]
    windows = {kind: _windows(shots.stories, kind) for kind in ("true", "shuffled", "crossing")}
    return {
        "stories": num_stories,
        "seed": _SEED,
        "windows": {kind: len(each) for kind, each in windows.items()},
        "limit": LEAST_EVIDENCE,
        "deviation": {
            name: round(float(each), 3)
            for name, each in zip(UNPROMPTED_RANGES, errors_SV.std(axis=0), strict=True)
        },
        "kept_by_limit": _table(shots.read, windows),
        "kept_by_limit_if_read_without_error": _table(shots.true, windows),
    }


def measure_moments(num_clips: int) -> dict[str, Any]:
    """Read scenes as the world draws them, and as a training samples shots: 4 of 12 frames a second."""
    scene = default_scene(resolve_model(BUILTIN_PUPPET))
    num_frames, height, width = scene.num_frames, scene.height, scene.width
    path = resolve_model(BUILTIN_PUPPET).path / CLASSIFIER_FILE
    reader = load_classifier(path, num_frames=num_frames, height=height, width=width)
    clips = draw_clips(seed=_SEED, step=0, count=num_clips)
    found = {}
    for name, length, step in (("scenes", num_frames, 1), ("shots", _SHOT_FRAMES, 3)):
        frames_BPCHW = render_clips(clips, num_frames=length, height=height, width=width)
        sampled_BPCHW = frames_BPCHW[:, : step * num_frames : step]
        accuracy = reading_accuracy(clips, read_films(reader, sampled_BPCHW))
        found[name] = {name: round(share, 4) for name, share in accuracy.items()}
    return {"clips": num_clips, "seed": _SEED, "read": found}


def _table(answers_SD: np.ndarray, windows: dict[str, list[list[int]]]) -> dict[str, dict[str, float]]:
    evidence = {
        kind: np.array([evidence_of(answers_SD[window]) for window in each]) for kind, each in windows.items()
    }
    return {
        f"{limit:.1f}": {kind: round(float((each >= limit).mean()), 4) for kind, each in evidence.items()}
        for limit in _LIMITS
    }


def _windows(stories_S: np.ndarray, kind: str) -> list[list[int]]:
    """Return windows of three shots: of one story, of three stories, or of which the last is of another."""
    count, draw = len(stories_S), np.random.default_rng(1)
    true = [[n, n + 1, n + 2] for n in range(count - 2) if len(set(stories_S[n : n + 3])) == 1]
    if kind == "true":
        return true
    if kind == "crossing":
        crossing = [[*window[:2], int(draw.integers(count))] for window in true]
        return [window for window in crossing if len(set(stories_S[window])) == 2]
    drawn = [list(map(int, draw.choice(count, 3, replace=False))) for _ in range(_SHUFFLED)]
    return [window for window in drawn if len(set(stories_S[window])) == 3]


def _rendered(num_stories: int) -> _Shots:
    plan = FilmPlan(out=Path(), seed=_SEED)
    side = plan.side * plan.upscale
    extractor = load_puppet_embedder(height=side, width=side).extractors[READER]
    stories, read, true = [], [], []
    for number in range(num_stories):
        story = sample_story(seed=_SEED, index=number, num_scenes=SCENES_DRAWN, changing=1.0)
        draw = story_generator(seed=_SEED, index=number, purpose="film")
        for shot, frames_PHWC in _alone(list(film_shots(number, story, plan, draw)), draw, fps=plan.fps):
            pictures = [_still(frame_HWC, plan.upscale) for frame_HWC in frames_PHWC[::_STILL_STEP]]
            picks = extractor.picks(len(pictures))
            read.append(extractor.extract([extractor.prepare(pictures[place]) for place in picks]))
            true.append(_true_answers(Clip(story, shot.scene)))
            stories.append(number)
    return _Shots(np.array(stories), answers_of(np.array(read, dtype=np.float64)), np.array(true))


def _alone(
    shots: Sequence[FilmShot], draw: np.random.Generator, *, fps: int
) -> Iterator[tuple[FilmShot, np.ndarray]]:
    """Yield the shots that the filter would keep, with the frames that show no other one."""
    lengths = [0 if shot.join == "cut" else int(draw.uniform(*TRANSITION_S) * fps) for shot in shots]
    for shot, (head, tail) in zip(shots, pairwise([*lengths, 0]), strict=True):
        frames_PHWC = shot.frames_PHWC[head + _TRIM : len(shot.frames_PHWC) - tail - _TRIM]
        if len(frames_PHWC) >= _FEWEST and (frames_PHWC != frames_PHWC[:1]).any():
            yield shot, frames_PHWC


def _still(frame_HWC: np.ndarray, upscale: int) -> np.ndarray:
    large_HWC, file = frame_HWC.repeat(upscale, axis=0).repeat(upscale, axis=1), io.BytesIO()
    Image.fromarray(large_HWC).save(file, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(file).convert("RGB"))


def _true_answers(clip: Clip) -> np.ndarray:
    """Return what a classifier without error would answer, (D,); nothing is known of actors off stage."""
    labels = class_labels([clip])
    shares = [
        np.full(size, 1 / size) if int(labels[name]) == ABSENT else np.eye(size)[int(labels[name])]
        for name, size in CLASS_SIZES.items()
    ]
    return np.concatenate([*shares, unprompted_numbers([clip])[0].numpy()])
