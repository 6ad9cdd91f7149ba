"""The sound inputs that trials change: a tiny model and everything that m2d makes with it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av

from benchmarks.broken_videos import FPS, write_video
from m2d.diffusion.denoise import DenoiseState
from m2d.errors import EXIT_RESUMABLE, Interrupted
from m2d.film import make
from m2d.film.journal import Journal
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
# More than are between two saved states, which are five apart.
_FEW_STEPS = 8
_LONGEST_S = 600.0


def prepare(folder: Path) -> Path:
    """Make all originals in `folder`, unless they are there; takes about a minute.

    Raises:
        RuntimeError: A command failed on sound input.
    """
    # Fonts are listed once, not by every trial that trains.
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")
    if (folder / "unpublished").is_dir():
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
    _stop(folder)
    _withhold(folder)
    return folder


def environment(cache: Path) -> dict[str, str]:
    """Return the environment of a command, with a cache of its own."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "HOME": str(cache), "M2D_CACHE": str(cache), "TMPDIR": str(cache), "OMP_NUM_THREADS": "1"}


def _m2d(folder: Path, *words: str) -> None:
    ending = _start(folder, *words).wait()
    if ending.code:
        raise RuntimeError(f"m2d {' '.join(words)}: {ending.stderr}")


def _start(folder: Path, *words: str, state: Callable[[], object] = lambda: None) -> Guarded:
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    rooms = Rooms(case=folder, readable=(folder.parent,))
    return Guarded(list(words), rooms, environment(cache), killed_after_s=_LONGEST_S, state=state)


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


def _stop(folder: Path) -> None:
    """Leave a run that stopped in its second window; its scheduler and its step caching have a history."""
    where = folder / "stopped"
    where.mkdir()
    text = (folder / "story.yaml").read_text().replace("join: {crossfade: 2}", "join: continue")
    sampling = f"num_inference_steps: {_FEW_STEPS}, scheduler: unipc, speed: fast"
    (where / "story.yaml").write_text(text.replace("num_inference_steps: 2", sampling))

    def state() -> None:
        keep_step = Journal.keep_step

        def stop(self: Journal, window: int, state: DenoiseState) -> None:
            keep_step(self, window, state)
            if window:
                raise Interrupted("stopped")

        Journal.keep_step = stop  # type: ignore[method-assign]  # in the process of this command alone

    _expect_interrupted(_start(where, "generate", "story.yaml", "--out", "film.mp4", state=state))


def _withhold(folder: Path) -> None:
    """Leave an extended film whose run folder was not written yet."""
    where = folder / "unpublished"
    where.mkdir()
    copy(folder / "film.mp4", where / "first.mp4")
    copy(folder / "film.m2d", where / "first.m2d")

    def finish_run(*_: object, **__: object) -> None:
        raise Interrupted("withheld")

    def state() -> None:
        make.finish_run = finish_run  # type: ignore[assignment]  # in the process of this command alone

    words = ("extend", "first.mp4", "--prompt", "Actor1 waves.", "--out", "film.mp4")
    _expect_interrupted(_start(where, *words, "--model", str(folder / "model"), state=state))


def _expect_interrupted(run: Guarded) -> None:
    ending = run.wait()
    if ending.code != EXIT_RESUMABLE:
        raise RuntimeError(f"ended with {ending.code}: {ending.stderr}")


def copy(source: Path, target: Path) -> Path:
    """Copy a file or folder of the originals into a case."""
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    return Path(shutil.copy(source, target))
