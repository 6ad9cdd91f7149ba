"""Any film as scenes for a model: cut where its scenes begin, at the model's rate and size.

Owns which frames are taken and what is said about it. Opening files is the business of `read`, finding cuts
of `cuts`, the size of `cover`. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2d.video.cover import Cover, Turn, cover, turn_of
from m2d.video.cuts import THUMBNAIL_SIDE, check_cuts, find_cuts, nearest_frame, place_cuts, without_flashes
from m2d.video.pixels import display_matrix, is_high_dynamic_range
from m2d.video.read import FilmError, FilmFrame, FilmInfo, film_frames, probe

# A rate that is off by less is a camera's rounding, not another rate.
_SAME_RATE = 0.01
# Longest against shortest time between frames; containers that keep milliseconds make 33 and 34 of a
# thirtieth.
_STEADY_STEPS = 1.5


@dataclass(frozen=True, kw_only=True, slots=True)
class FootageScene:
    """One scene's clip.

    Attributes:
        frames_PHWC: uint8 RGB at the model's rate and size. The last one is the scene's last frame.
        start_s: Where the whole scene begins, in seconds from the film's first frame.
        end_s: Where it ends.
    """

    frames_PHWC: np.ndarray
    start_s: float
    end_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Footage:
    """The last scenes of a film.

    Attributes:
        scenes: In the film's order.
        notes: What was done to the film, in plain words.
    """

    scenes: tuple[FootageScene, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    """One scene of the film, and the times of its frames from `first_frame` on."""

    name: str
    first_frame: int
    times_s: np.ndarray
    end_s: float

    def num_there(self, *, fps: int) -> int:
        """How many frames at `fps` per second it holds, counted from its end."""
        # Half a step before the first frame, that one is still the nearest and not yet taken.
        return math.floor(float(self.times_s[-1] - self.times_s[0]) * fps + 0.5) + 1

    def picked(self, *, fps: int, num_frames: int) -> list[int]:
        """The film's frames nearest to `num_frames` times that end with the scene's last frame."""
        wanted_s = self.times_s[-1] - np.arange(num_frames)[::-1] / fps
        return [self.first_frame + nearest_frame(self.times_s, float(time_s)) for time_s in wanted_s]


def read_footage(
    path: Path,
    *,
    fps: int,
    height: int,
    width: int,
    num_frames: int,
    cuts_s: Sequence[float] | None,
    max_scenes: int,
) -> Footage:
    """Take the last scenes of a film, of each its last frames.

    Frames are taken by their times, so a varying frame rate does not matter: a scene's last frame and, from
    there backwards, the frames shown nearest to every 1/fps seconds. Before a scene that is too short for all
    of them its first frame is held; a scene with less than half of them is refused.

    The film is decoded twice, frame by frame, and only what is taken is held in memory.

    Args:
        path: The film.
        fps: Frames per second of the clips.
        height: Height of the clips in pixels.
        width: Width of the clips in pixels.
        num_frames: Frames of each clip.
        cuts_s: Where scenes begin, in seconds from the first frame, ascending; empty: the film is one scene.
            None: they are found, which needs the package `scenedetect`.
        max_scenes: Scenes to take at most, from the end.

    Raises:
        FilmError: Not a film, incomplete, too large, of a format that is not read, or of too short scenes.
        InputError: Cuts that the film does not have, or no package to find them.
        ProvenanceError: The film's provenance is damaged or tells of another film.
    """
    if min(fps, height, width, num_frames, max_scenes) < 1:
        raise ValueError(
            f"{max_scenes} scenes of {num_frames} frames of {width}x{height} at {fps}: none at 0"
        )
    info = probe(path)
    shape, shape_notes = _shape(path, info, height=height, width=width)
    scenes = _scenes(path, info, cuts_s=cuts_s)
    taken = scenes[-max_scenes:]
    _check_lengths(path, taken, fps=fps, num_frames=num_frames)
    picks = [scene.picked(fps=fps, num_frames=num_frames) for scene in taken]
    pictures = _pictures(path, {index for picked in picks for index in picked}, info=info, shape=shape)
    clips = [
        FootageScene(
            frames_PHWC=np.stack([pictures[index] for index in picked]),
            start_s=float(scene.times_s[0]),
            end_s=scene.end_s,
        )
        for scene, picked in zip(taken, picks, strict=True)
    ]
    notes = (
        _scenes_note(scenes, taken, is_told=cuts_s is not None),
        *_rate_notes(scenes, fps=fps),
        *_length_notes(taken, fps=fps, num_frames=num_frames),
        *shape_notes,
        *(["its sound is left out"] if info.has_sound else []),
    )
    return Footage(scenes=tuple(clips), notes=notes)


def _shape(path: Path, info: FilmInfo, *, height: int, width: int) -> tuple[Cover, list[str]]:
    with contextlib.closing(film_frames(path)) as frames:
        first = next(frames, None)
    if first is None:
        raise FilmError(f"{path}: holds no frame that can be decoded; give a complete video file")
    turn = turn_of(display_matrix(first.picture))
    shape = cover(
        width=info.width // _upscale(info),
        height=info.height // _upscale(info),
        pixel_aspect=info.pixel_aspect,
        turn=turn or Turn(),
        target_width=width,
        target_height=height,
    )
    notes = shape.notes()
    if turn is None:
        notes.append("not turned as the film asks, which is by no right angle")
    if is_high_dynamic_range(first.picture):
        notes.append("its high dynamic range is taken for plain levels: colours are paler than in a player")
    return shape, notes


def _scenes(path: Path, info: FilmInfo, *, cuts_s: Sequence[float] | None) -> list[_Scene]:
    times_s, looks_like_cuts = _looked_through(path, cuts_s=cuts_s)
    end_s = float(times_s[-1]) + _usual_step_s(times_s, info=info)
    if cuts_s is None:
        cuts = without_flashes(looks_like_cuts, times_s=times_s, end_s=end_s)
    else:
        cuts = place_cuts(cuts_s, times_s=times_s, end_s=end_s)
    ends_s = [*(float(times_s[cut]) for cut in cuts), end_s]
    parts = zip([0, *cuts], np.split(times_s, cuts), ends_s, strict=True)
    return [
        _Scene(
            name=f"scene {number} of {len(ends_s)} ({_span(float(own_s[0]), own_end_s)})",
            first_frame=first,
            times_s=own_s,
            end_s=own_end_s,
        )
        for number, (first, own_s, own_end_s) in enumerate(parts, start=1)
    ]


def _looked_through(path: Path, *, cuts_s: Sequence[float] | None) -> tuple[np.ndarray, list[int]]:
    """When each frame is shown, from 0 on and ascending, and where the film may cut unless that is told."""
    if cuts_s is not None:
        check_cuts(cuts_s)
    told_s: list[float] = []

    def frames() -> Iterator[FilmFrame]:
        with contextlib.closing(film_frames(path)) as decoded:
            for frame in decoded:
                told_s.append(frame.time_s)
                yield frame

    looks_like_cuts: list[int] = []
    if cuts_s is None:
        looks_like_cuts = find_cuts(frame.thumbnail(side=THUMBNAIL_SIDE) for frame in frames())
    else:
        collections.deque(frames(), maxlen=0)
    # A film that was put together badly may step back in time; players then show what comes next at once.
    return np.maximum.accumulate(np.array(told_s) - told_s[0]), looks_like_cuts


def _usual_step_s(times_s: np.ndarray, *, info: FilmInfo) -> float:
    # What a file tells of its rate may be anything; only a film of one frame leaves nothing else.
    return (float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0) or float(1 / info.fps)


def _check_lengths(path: Path, scenes: Sequence[_Scene], *, fps: int, num_frames: int) -> None:
    least = math.ceil(num_frames / 2)
    for scene in scenes:
        found = scene.num_there(fps=fps)
        if found < least:
            raise FilmError(
                f"{path}: {scene.name} has {found} of the {num_frames} frames that are needed at {fps} per"
                f" second, {least} at least: give a longer film, or name longer scenes with --cuts"
            )


def _pictures(path: Path, wanted: set[int], *, info: FilmInfo, shape: Cover) -> dict[int, np.ndarray]:
    pictures: dict[int, np.ndarray] = {}
    with contextlib.closing(film_frames(path)) as frames:
        for index, frame in enumerate(itertools.islice(frames, max(wanted) + 1)):
            if index in wanted:
                pictures[index] = shape.apply(frame.rgb(upscale=_upscale(info)))
    if len(pictures) < len(wanted):
        raise FilmError(f"{path}: was changed while it was read; wait until nobody writes it")
    return pictures


def _upscale(info: FilmInfo) -> int:
    return info.provenance.video.upscale if info.provenance else 1


def _scenes_note(scenes: Sequence[_Scene], taken: Sequence[_Scene], *, is_told: bool) -> str:
    spans = ", ".join(_span(float(scene.times_s[0]), scene.end_s) for scene in taken)
    if len(scenes) == 1:
        return f"taken as one scene: {spans}" if is_told else f"no cut found, taken as one scene: {spans}"
    known = "given" if is_told else "found"
    last = f", the last {len(taken)} taken" if len(taken) < len(scenes) else ""
    return f"{len(scenes)} scenes {known}{last}: {spans}"


def _rate_notes(scenes: Sequence[_Scene], *, fps: int) -> list[str]:
    steps_s = np.diff(np.concatenate([scene.times_s for scene in scenes]))
    if not steps_s.any():
        return []
    rate = 1 / float(steps_s.mean())
    is_steady = steps_s.max() <= _STEADY_STEPS * steps_s.min()
    if is_steady and abs(rate / fps - 1) < _SAME_RATE:
        return []
    varying = "" if is_steady else " (on average: they vary)"
    notes = [f"resampled from {rate:.4g}{varying} to {fps} frames per second"]
    if rate < fps * (1 - _SAME_RATE):
        notes.append("frames are shown more than once: the film has fewer per second")
    return notes


def _length_notes(taken: Sequence[_Scene], *, fps: int, num_frames: int) -> list[str]:
    lengths = [scene.num_there(fps=fps) for scene in taken]
    notes = []
    if max(lengths) > num_frames:
        notes.append(f"at most the last {num_frames} frames ({num_frames / fps:.1f} s) of a scene are taken")
    for scene, length in zip(taken, lengths, strict=True):
        if length < num_frames:
            notes.append(f"{scene.name} is {num_frames - length} frames short: its first frame is held")
    return notes


def _span(start_s: float, end_s: float) -> str:
    return f"{start_s:.1f}-{end_s:.1f} s"
