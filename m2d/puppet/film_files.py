"""Long films of the puppet world with known cuts: the test bed of the data set pipeline.

A film joins shots of many stories by cuts, dissolves and fades; some shots stand still, some have a flash
of light, and casts return later. The truth lies beside the film. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from m2d import disk
from m2d.files import check_writable, publish, write_json
from m2d.folders import make_folder
from m2d.progress import Reporter
from m2d.puppet.captions import varied_caption
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.story import Scene, Story, sample_story, story_generator
from m2d.reading import parse_json, read_bytes
from m2d.stop import StopRequest
from m2d.video.open_film import FilmError, opened_film

TRUTH_ENDING = ".captions.json"
_MOST_TRUTH_BYTES = 1 << 28
_TICKS = 1000
SCENES_DRAWN = 16
_SHOTS_OF_STORY = (3, 5)
_SHOT_S = (2.5, 5.0)
# How shots are joined, and how often a story returns, a shot stands still, or has a flash.
_JOINS, _JOIN_SHARES = ("cut", "dissolve", "fade"), (0.76, 0.16, 0.08)
_RETURNS, _STANDS, _FLASHES = 0.25, 0.06, 0.12
TRANSITION_S = (0.6, 1.2)
_ENCODER = {"crf": "14", "preset": "veryfast", "threads": "1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmPlan:
    """Films to render.

    Attributes:
        minutes: Length of each film.
        side: Height and width of the rendered picture in pixels, enlarged by `upscale`.
        fps: Frames per second; an action's poses are held for several frames.
        varying: Whether the frame rate varies: some pictures are shown for two or three frames' time.
    """

    out: Path
    num_films: int = 1
    minutes: float = 3.0
    seed: int = 1
    side: int = 64
    upscale: int = 4
    fps: int = 12
    varying: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmShot:
    """One shot before it is joined; `story` is that of its cast and places."""

    story: int
    caption: str
    join: str
    scene: Scene
    frames_PHWC: np.ndarray


def render_films(plan: FilmPlan, reporter: Reporter, stop: StopRequest) -> list[Path]:
    """Render films and their truth; return the films. Those of an interrupted run are kept.

    Raises:
        OutputError: The disk refused, or another film is there already.
        Interrupted: A stop was requested; finished films stay.
    """
    make_folder(plan.out)
    paths = []
    with reporter.stage("render films", total=plan.num_films) as progress:
        for number in range(plan.num_films):
            path = plan.out / f"puppet-{plan.seed}-{number}.mp4"
            _write(path, plan, number)
            paths.append(path)
            progress.advance()
            stop.check("while rendering films: finished ones stay")
    return paths


def _write(path: Path, plan: FilmPlan, number: int) -> None:
    draw = story_generator(seed=plan.seed, index=number, purpose="film")
    shots: list[FilmShot] = []
    num_frames, stories = 0, _stories(plan, number, draw)
    while num_frames < plan.minutes * 60 * plan.fps:
        for shot in film_shots(*next(stories), plan, draw):
            shots.append(shot)
            num_frames += len(shot.frames_PHWC)
    frames_PHWC, edges = _joined(shots, draw, fps=plan.fps)
    steps = draw.choice(3, size=len(frames_PHWC), p=(0.6, 0.25, 0.15)) + 1 if plan.varying else None
    times = np.concatenate([[0], np.cumsum(steps)]) if steps is not None else np.arange(len(frames_PHWC) + 1)
    times_s = times / plan.fps
    truth = [
        {
            "start_s": round(float(times_s[start]), 6),
            "end_s": round(float(times_s[stop]), 6),
            "caption": shot.caption,
            "story": shot.story,
            "join": shot.join,
        }
        for shot, (start, stop) in zip(shots, edges, strict=True)
    ]
    beside = path.with_name(f"{path.stem}{TRUTH_ENDING}")
    if path.is_file() and _is_truth(beside, truth) and _num_frames(path) == len(frames_PHWC):
        return
    check_writable(path, force=False)
    # Before the film, which is complete with its truth then.
    write_json(beside, truth)
    with publish(path, force=False) as part, disk.output_errors(path):
        title = f"Puppet film {plan.seed}-{number}"
        _encode(part, frames_PHWC, times_s[:-1], plan, title=title)


def _is_truth(path: Path, truth: Sequence[Mapping[str, object]]) -> bool:
    """Whether a file says the same of its film: seed and length are the same."""
    try:
        found = parse_json(read_bytes(path, limit_bytes=_MOST_TRUTH_BYTES))
    except (OSError, ValueError):
        return False
    return bool(found == truth)


def _num_frames(film: Path) -> int:
    try:
        with opened_film(film) as (_, stream):
            return stream.frames
    except FilmError:
        return 0


def _stories(plan: FilmPlan, number: int, draw: np.random.Generator) -> Iterator[tuple[int, Story]]:
    """Yield stories with their numbers; some cast returns in the places where it was before."""
    earlier: list[Story] = []
    for index in itertools.count(number * 100_000):
        story = sample_story(seed=plan.seed, index=index, num_scenes=SCENES_DRAWN, changing=1.0)
        if len(earlier) > 1 and draw.random() < _RETURNS:
            again = int(draw.integers(len(earlier) - 1))
            yield again, replace(earlier[again], scenes=tuple(reversed(earlier[again].scenes)))
        else:
            earlier.append(story)
            yield len(earlier) - 1, story


def film_shots(number: int, story: Story, plan: FilmPlan, draw: np.random.Generator) -> Iterator[FilmShot]:
    """Render some shots of a story, each in another place or at another time than the one before."""
    for scene in _visibly_different(story)[: int(draw.integers(_SHOTS_OF_STORY[0], _SHOTS_OF_STORY[1] + 1))]:
        num_frames = int(draw.uniform(*_SHOT_S) * plan.fps)
        frames = render_clips([Clip(story, scene)], num_frames=num_frames, height=plan.side, width=plan.side)
        frames_PHWC = (frames[0].permute(0, 2, 3, 1).numpy() * 255).round().astype(np.uint8)
        if draw.random() < _STANDS:
            frames_PHWC = np.repeat(frames_PHWC[:1], num_frames, axis=0)
        elif draw.random() < _FLASHES:
            at = 2 * num_frames // 3
            frames_PHWC[at : at + 1] = 255 - (255 - frames_PHWC[at : at + 1]) // 6
        join = str(draw.choice(_JOINS, p=_JOIN_SHARES))
        caption = varied_caption(story, scene, draw=draw)
        yield FilmShot(story=number, caption=caption, join=join, scene=scene, frames_PHWC=frames_PHWC)


def _visibly_different(story: Story) -> list[Scene]:
    """Return scenes of which each differs in place or time from the one before it."""
    chosen: list[Scene] = []
    for scene in story.scenes:
        place = story.backdrop_of(scene)
        before = story.backdrop_of(chosen[-1]) if chosen else None
        if before is None or (before.setting, before.time) != (place.setting, place.time):
            chosen.append(scene)
    return chosen


def _joined(
    shots: Sequence[FilmShot], draw: np.random.Generator, *, fps: int
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Join shots; return all frames, and the frames of each shot that show it alone."""
    frames = [shots[0].frames_PHWC]
    edges, end = [[0, len(shots[0].frames_PHWC)]], len(shots[0].frames_PHWC)
    for shot in shots[1:]:
        head_PHWC = shot.frames_PHWC
        length = 0 if shot.join == "cut" else int(draw.uniform(*TRANSITION_S) * fps)
        if length:
            tail_PHWC = frames[-1][-length:]
            frames[-1] = frames[-1][:-length]
            end -= length
            frames.append(_mixed(tail_PHWC, head_PHWC[:length], through_black=shot.join == "fade"))
            head_PHWC = head_PHWC[length:]
            edges[-1][1], end = end, end + length
        frames.append(head_PHWC)
        edges.append([end, end + len(head_PHWC)])
        end += len(head_PHWC)
    return np.concatenate(frames), [(start, stop) for start, stop in edges]


def _mixed(tail_PHWC: np.ndarray, head_PHWC: np.ndarray, *, through_black: bool) -> np.ndarray:
    shares = (np.arange(len(tail_PHWC)) + 1) / (len(tail_PHWC) + 1)
    shares_PHWC = shares[:, None, None, None]
    if through_black:
        tail, head = np.clip(1 - 2 * shares_PHWC, 0, 1), np.clip(2 * shares_PHWC - 1, 0, 1)
    else:
        tail, head = 1 - shares_PHWC, shares_PHWC
    return np.asarray((tail_PHWC * tail + head_PHWC * head).round(), dtype=np.uint8)


def _encode(part: Path, frames_PHWC: np.ndarray, times_s: np.ndarray, plan: FilmPlan, *, title: str) -> None:
    base = Fraction(1, _TICKS * plan.fps)
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        container.metadata["title"] = title
        stream = container.add_stream("libx264", rate=plan.fps, options=_ENCODER)
        stream.width = stream.height = plan.side * plan.upscale
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = base
        for frame_HWC, time_s in zip(frames_PHWC, times_s, strict=True):
            large_HWC = frame_HWC.repeat(plan.upscale, axis=0).repeat(plan.upscale, axis=1)
            frame = av.VideoFrame.from_ndarray(large_HWC, format="rgb24")
            frame.pts, frame.time_base = round(float(time_s) / float(base)), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
