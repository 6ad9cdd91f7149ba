"""Any video as scenes for a model: divided at its cuts, at the model's rate and size.

Owns which frames are taken, and the notes about it for the user. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from m2d.errors import Remedy
from m2d.fit import FilmFit, FitChoice
from m2d.video.crop_resize import Cover, Turn, cover, turn_of
from m2d.video.cuts import (
    THUMBNAIL_SIDE,
    ShownPicture,
    check_cuts,
    find_cuts,
    place_cuts,
    without_flashes,
)
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.frame_times import nearest_frames, shown_times_s
from m2d.video.open_film import FilmError, check_announced
from m2d.video.own_picture import model_rate_notes, own_fit, own_rate_notes
from m2d.video.pixels import display_matrix
from m2d.video.printable import counted
from m2d.video.read import FilmInfo, probe

# Of times in containers, in frames.
_ROUNDING = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class ResampledVideo:
    """Scenes of a video at one rate and size, decoded frame by frame.

    Attributes:
        picks: For every scene the video's frame numbers, from 0, ascending.
        upscale: Side, in pixels of the video, of the block that becomes one pixel.
    """

    path: Path
    picks: tuple[np.ndarray, ...]
    spans_s: tuple[tuple[float, float], ...]
    shape: Cover
    upscale: int = 1

    @property
    def num_frames(self) -> int:
        """Number of frames of all scenes."""
        return sum(map(len, self.picks))

    def frames(self, scenes: range) -> Generator[np.ndarray]:
        """Decode some scenes frame by frame: uint8 RGB HWC.

        Raises:
            FilmError: The video was changed meanwhile.
        """
        wanted = itertools.chain.from_iterable(self.picks[scenes.start : scenes.stop])
        following = next(wanted, None)
        with contextlib.closing(film_frames(self.path)) as frames:
            for index, frame in enumerate(frames):
                if index == following:
                    picture_HWC = self.shape.apply(frame.rgb(upscale=self.upscale))
                while index == following:
                    yield picture_HWC
                    following = next(wanted, None)
                if following is None:
                    return
        raise FilmError(f"{self.path}: was changed while it was read; wait until it is complete")

    def clips(self) -> tuple[np.ndarray, ...]:
        """Decode all scenes into memory: uint8 RGB PHWC each."""
        with contextlib.closing(self.frames(range(len(self.picks)))) as frames:
            return tuple(np.stack(list(itertools.islice(frames, len(picked)))) for picked in self.picks)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExternalVideo:
    """A video as scenes.

    Attributes:
        clips: Frames of the last scenes, uint8 RGB PHWC each, that end with the scene's last frame.
        whole: All scenes, at the model's size and rate, or at the video's own.
        fit: How scenes of a model fit the video at its own size and rate; None at the model's.
    """

    clips: tuple[np.ndarray, ...]
    whole: ResampledVideo
    notes: tuple[str, ...]
    fit: FilmFit | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Scene:
    """One scene of the video, and the times of its frames from `first_frame` on."""

    name: str
    first_frame: int
    times_s: np.ndarray
    end_s: float

    @property
    def span_s(self) -> tuple[float, float]:
        """Where the scene begins and ends."""
        return float(self.times_s[0]), self.end_s

    def num_there(self, *, fps: float) -> int:
        """Number of frames at `fps` per second that it holds, counted from its end."""
        # A time up to half a step before the first frame still takes that frame.
        return math.floor((self._last_s(fps=fps) - float(self.times_s[0])) * fps + 0.5) + 1

    def num_shown(self, *, fps: float) -> int:
        """Number of frames at `fps` per second that show all of it, so that scenes keep their places."""
        return max(round(self.end_s * fps) - round(float(self.times_s[0]) * fps), 1)

    def picked(self, *, fps: float, num_frames: int) -> np.ndarray:
        """Numbers of the frames nearest to `num_frames` times that end with the scene's last frame."""
        wanted_s = self._last_s(fps=fps) - np.arange(num_frames)[::-1] / fps
        return self.first_frame + nearest_frames(self.times_s, wanted_s)

    def _last_s(self, *, fps: float) -> float:
        """Last of the times to take a frame at: the last frame may be shown for long."""
        held_s = self.end_s - float(self.times_s[-1])
        return float(self.times_s[-1]) + max(math.floor(held_s * fps + _ROUNDING) - 1, 0) / fps


class _Times(NamedTuple):
    """When each frame is shown, when the last one ends, the frames that begin a scene, and notes."""

    times_s: np.ndarray
    end_s: float
    detected: list[int]
    notes: tuple[str, ...]


def read_external_video(
    path: Path,
    *,
    fps: int,
    height: int,
    width: int,
    num_frames: int,
    cuts_s: Sequence[float] | None,
    max_scenes: int,
    fit: FitChoice = "model",
) -> ExternalVideo:
    """Divide a video into scenes, and take the last frames of the last scenes.

    Frames are taken by their times, so the frame rate may vary: a scene's last frame and, from there
    backwards, the frame shown nearest to every 1/fps seconds. In a scene that is too short, the first frame
    is repeated; a scene with less than half of the frames is rejected.

    The video is decoded twice, frame by frame, and only the clips are kept in memory. `ExternalVideo.whole`
    decodes it once more.

    Args:
        num_frames: Frames of each clip.
        cuts_s: Where scenes begin, in seconds from the first frame, ascending; empty is a single scene. None
            detects the cuts, which needs OpenCV.
        max_scenes: Most scenes to take, from the end.
        fit: Whether `whole` has the size and rate of the video (`film`) or of the model.

    Raises:
        FilmError: Not a video, incomplete, too large, of a format that is not read, or of too short scenes.
        InputError: Cuts outside the video, or no package to detect them.
        ProvenanceError: The video's provenance is corrupt or describes another film.
    """
    if min(fps, height, width, num_frames, max_scenes) < 1:
        raise ValueError(
            f"{max_scenes} scenes of {num_frames} frames of {width}x{height} at {fps}: none at 0"
        )
    info = probe(path)
    shape, shape_notes = _shape(path, info, height=height, width=width)
    scenes, treatment_notes = _scenes(path, info, cuts_s=cuts_s)
    taken = scenes[-max_scenes:]
    _check_lengths(path, taken, fps=fps, num_frames=num_frames)
    whole = ResampledVideo(
        path=path,
        picks=tuple(scene.picked(fps=fps, num_frames=scene.num_shown(fps=fps)) for scene in scenes),
        spans_s=tuple(scene.span_s for scene in scenes),
        shape=shape,
        upscale=_upscale(info),
    )
    picks = tuple(scene.picked(fps=fps, num_frames=num_frames) for scene in taken)
    ending = replace(whole, picks=picks, spans_s=whole.spans_s[-len(taken) :])
    times_s = np.concatenate([scene.times_s for scene in scenes])
    own = own_fit(info, shape.turn, times_s, model_fps=fps) if fit == "film" else None
    notes = (
        _scenes_note(scenes, taken, is_given=cuts_s is not None),
        *(model_rate_notes(times_s, fps=fps) if own is None else own_rate_notes(times_s, own)),
        *_length_notes(taken, fps=fps, num_frames=num_frames),
        *treatment_notes,
        *(shape.notes() if own is None else ()),
        *shape_notes,
    )
    whole = whole if own is None else _own(whole, own, info, scenes)
    return ExternalVideo(clips=ending.clips(), whole=whole, notes=notes, fit=own)


def _own(whole: ResampledVideo, fit: FilmFit, info: FilmInfo, scenes: Sequence[_Scene]) -> ResampledVideo:
    shape = cover(
        width=info.width,
        height=info.height,
        # Its pixels keep their aspect.
        pixel_aspect=Fraction(1),
        turn=whole.shape.turn,
        target_width=fit.width,
        target_height=fit.height,
    )
    fps = float(fit.fps)
    picks = tuple(scene.picked(fps=fps, num_frames=scene.num_shown(fps=fps)) for scene in scenes)
    return replace(whole, picks=picks, shape=shape, upscale=1)


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
    notes = []
    if turn is None:
        notes.append("not turned: its metadata asks for an angle that is no right angle")
    return shape, notes


def _scenes(
    path: Path, info: FilmInfo, *, cuts_s: Sequence[float] | None
) -> tuple[list[_Scene], tuple[str, ...]]:
    times_s, end_s, detected, notes = _frame_times(path, info=info, cuts_s=cuts_s)
    # A container without a duration announces it by its timestamps.
    check_announced(path, num_frames=len(times_s), duration_s=end_s)
    if cuts_s is None:
        cuts = without_flashes(detected, times_s=times_s, end_s=end_s)
    else:
        cuts = place_cuts(cuts_s, times_s=times_s, end_s=end_s)
    ends_s = [*(float(times_s[cut]) for cut in cuts), end_s]
    parts = zip([0, *cuts], np.split(times_s, cuts), ends_s, strict=True)
    scenes = [
        _Scene(
            name=f"scene {number} of {len(ends_s)} ({_span(float(own_s[0]), own_end_s)})",
            first_frame=first,
            times_s=own_s,
            end_s=own_end_s,
        )
        for number, (first, own_s, own_end_s) in enumerate(parts, start=1)
    ]
    return scenes, notes


def _frame_times(path: Path, *, info: FilmInfo, cuts_s: Sequence[float] | None) -> _Times:
    """Decode the video once, and detect cuts unless cuts are given."""
    if cuts_s is not None:
        check_cuts(cuts_s)
    timestamps_s: list[float] = []
    end_s: float | None = None
    notes: tuple[str, ...] = ()

    def frames() -> Iterator[FilmFrame]:
        nonlocal end_s, notes
        with contextlib.closing(film_frames(path)) as decoded:
            for frame in decoded:
                timestamps_s.append(frame.time_s)
                end_s, notes = frame.end_s, frame.notes
                yield frame

    detected: list[int] = []
    if cuts_s is None:
        detected = find_cuts(
            ShownPicture(frame.time_s, frame.thumbnail(side=THUMBNAIL_SIDE), frame.picture.key_frame)
            for frame in frames()
        )
    else:
        collections.deque(frames(), maxlen=0)
    times_s = shown_times_s(np.array(timestamps_s))
    step_s = _usual_step_s(times_s, info=info)
    last_s = 0.0 if end_s is None else end_s - timestamps_s[0]
    end_s = last_s if last_s > times_s[-1] else float(times_s[-1]) + step_s
    return _Times(times_s, end_s, detected, notes)


def _usual_step_s(times_s: np.ndarray, *, info: FilmInfo) -> float:
    # The rate in a file's header may be wrong; it is used only for a video of one frame.
    return (float(np.median(np.diff(times_s))) if len(times_s) > 1 else 0.0) or float(1 / info.fps)


def _check_lengths(path: Path, scenes: Sequence[_Scene], *, fps: int, num_frames: int) -> None:
    least = math.ceil(num_frames / 2)
    for scene in scenes:
        found = scene.num_there(fps=fps)
        if found < least:
            has = f"has {counted(found, 'frame')} at {fps} per second; {least} at least are needed"
            if len(scenes) == 1:
                raise FilmError(f"{path}: {has}; give a longer film")
            raise FilmError(f"{path}: {scene.name} {has}", remedy=Remedy.GIVE_CUTS)


def _upscale(info: FilmInfo) -> int:
    return info.provenance.video.upscale if info.provenance else 1


def _scenes_note(scenes: Sequence[_Scene], taken: Sequence[_Scene], *, is_given: bool) -> str:
    spans = ", ".join(_span(float(scene.times_s[0]), scene.end_s) for scene in taken)
    if len(scenes) == 1:
        return f"taken as one scene: {spans}" if is_given else f"no cut found, taken as one scene: {spans}"
    known = "given" if is_given else "found"
    are = "one is" if len(taken) == 1 else f"{len(taken)} are"
    last = f", the last {are} context" if len(taken) < len(scenes) else ""
    return f"{len(scenes)} scenes {known}{last}: {spans}"


def _length_notes(taken: Sequence[_Scene], *, fps: int, num_frames: int) -> list[str]:
    lengths = [scene.num_there(fps=fps) for scene in taken]
    notes = []
    if max(lengths) > num_frames:
        notes.append(
            f"at most the last {num_frames} frames ({num_frames / fps:.1f} s) of a scene are context"
        )
    for scene, length in zip(taken, lengths, strict=True):
        if length < num_frames:
            frames = counted(num_frames - length, "frame")
            notes.append(f"{scene.name} is {frames} too short for context; its first frame is repeated")
    return notes


def _span(start_s: float, end_s: float) -> str:
    return f"{start_s:.1f}-{end_s:.1f} s"
