"""The sound inputs that trials change: a tiny model and everything that m2d makes with it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from fractions import Fraction
from pathlib import Path

import av

from benchmarks.broken_videos import FPS, write_video
from tests.attack.guard import Guarded, Rooms
from tests.m2d.model.tiny_model import build_tiny_model

CANARY = "a line that no trial may ever show"
STORY = """\
title: A story to attack
model: {model}
cast:
  Actor1: round red body, top hat
setting: beach at noon
scenes:
  - Actor1 walks right.
  - {{prompt: Actor1 waves., frames: 5, join: {{crossfade: 2}}}}
sampling: {{num_inference_steps: 2, seed: 3}}
video: {{num_frames: 5}}
"""
TRAINING = """\
title: attacked
stage: base
model: {model}
init: {model}
data: {{source: clips, held_out: 0}}
video: {{num_frames: 5, height: 32, width: 32, fps: 8}}
num_scenes: 1
steps: {steps}
batch_size: 2
optimizer: {{name: adamw, lr: 1.0e-4}}
schedule: {{name: cosine, warmup_steps: 1}}
checkpoint: {{every_s: 1, keep: 2}}
"""
_KEPT = ("PATH", "LANG", "LD_LIBRARY_PATH", "MPLCONFIGDIR")
# Long enough to be interrupted.
_MANY_STEPS = 400
_LONGEST_S = 600.0


def prepare(folder: Path) -> Path:
    """Make all originals in `folder`, unless they are there; takes about a minute.

    Raises:
        RuntimeError: A command failed on sound input.
    """
    # Fonts are listed once, not by every trial that trains.
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    if (folder / "unfinished").is_dir():
        return folder
    model = build_tiny_model(folder / "model")
    (folder / "story.yaml").write_text(STORY.format(model=model))
    (folder / "training.yaml").write_text(TRAINING.format(model=model, steps=2))
    (folder / "canary").write_text(CANARY)
    _clips(folder / "clips")
    _films(folder / "videos")
    _m2d(folder, "generate", "story.yaml", "--out", "film.mp4")
    _m2d(folder, "train", "training.yaml", "--out", "run")
    _m2d(folder, "puppet", "film", "--out", "films", "--minutes", "0.1", "--fps", "8")
    _m2d(folder, "data", "build", "films", "--out", "set", "--set", "relate.min_sim=-1")
    _m2d(folder, "export", "--backend", "onnx", "--recipe", "story.yaml", "--out", "graphs")
    _interrupt(folder)
    return folder


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of a command, with a cache of its own."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HOME": str(cache), "M2D_CACHE": str(cache), "TMPDIR": str(cache), "OMP_NUM_THREADS": "1"}


def _m2d(folder: Path, *words: str) -> None:
    ending = _start(folder, *words).wait()
    if ending.code:
        raise RuntimeError(f"m2d {' '.join(words)}: {ending.stderr}")


def _start(folder: Path, *words: str) -> Guarded:
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    rooms = Rooms(case=folder, readable=(folder.parent,))
    return Guarded(list(words), rooms, environment(cache), killed_after_s=_LONGEST_S)


def _clips(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        write_video(folder / f"{number}.mp4", seed=number)
        (folder / f"{number}.txt").write_text(
            f"Beach at noon. Actor1 (round red body, no hat) walks {number}.\n"
        )


def _films(folder: Path) -> None:
    """The same pictures in several containers and codecs."""
    folder.mkdir()
    source = write_video(folder / "clip.mp4", num_frames=24)
    codecs = {"mkv": "libx264", "mov": "libx264", "avi": "mpeg4", "webm": "libvpx"}
    with av.open(str(source)) as given:
        frames = list(given.decode(video=0))
    for suffix, codec in codecs.items():
        with av.open(str(folder / f"clip.{suffix}"), "w") as made:
            stream = made.add_stream(codec, rate=FPS)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for number, frame in enumerate(frames):
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                made.mux(stream.encode(frame))
            made.mux(stream.encode())


def _interrupt(folder: Path) -> None:
    """Leave a run that was interrupted while it denoised, in `unfinished/`."""
    where = folder / "unfinished"
    where.mkdir()
    text = (
        (folder / "story.yaml")
        .read_text()
        .replace("num_inference_steps: 2", f"num_inference_steps: {_MANY_STEPS}")
    )
    (where / "story.yaml").write_text(text)
    run = _start(where, "generate", "story.yaml", "--out", "film.mp4")
    header = where / "film.m2d/journal/journal.json"
    end = time.monotonic() + _LONGEST_S
    while not header.exists() and time.monotonic() < end:
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGTERM)
    ending = run.wait()
    if not header.exists():
        raise RuntimeError(f"the run could not be interrupted: {ending.stderr}")


def copy(source: Path, target: Path) -> Path:
    """Copy a file or folder of the originals into a case."""
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    return Path(shutil.copy(source, target))
