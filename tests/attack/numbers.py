"""Odd numbers for the options and settings that take one."""

from __future__ import annotations

import random
from pathlib import Path

from tests.attack.originals import copy
from tests.attack.trial import Trial

_NUMBERS = (
    "nan", "inf", "-inf", "1e400", "-1", "0", "9" * 30, "9" * 12, "1e308", "", "\u0663", "\u00b2", "0x10",
    " 5 ", "5.0000000001", "9" * 3000, "\u202e5",
)  # fmt: skip
_EXPORT = "export --backend onnx --out g --model {model}"
# Commands that end early where the number is refused, and soon where it is taken.
_COMMANDS = (
    "extend clip.mp4 --prompt x --out o.mp4 --model {model} --cuts",
    "extend film.mp4 --prompt x --out o.mp4 --model {model} --frames",
    "reroll film.mp4 --out o.mp4 --model {model} --scene",
    "generate story.yaml --out o.mp4 --seeds",
    "check story.yaml --steps",
    f"{_EXPORT} --frames 5 --size 32x32 --scenes",
    f"{_EXPORT} --scenes 1 --size 32x32 --frames",
    f"{_EXPORT} --scenes 1 --frames 5 --size",
    f"{_EXPORT} --scenes 2 --frames 5 --size 32x32 --context",
    "train training.yaml --plan --devices",
    "data check clips --fps",
    "data check clips --frames",
    "data show clips",
    "check story.yaml --set sampling.guidance_scale=",
    "check story.yaml --set sampling.num_inference_steps=",
    "check story.yaml --set sampling.seed=",
    "check story.yaml --set video.fps=",
    "check story.yaml --set video.upscale=",
    "check story.yaml --set scenes[0].join.crossfade=",
    "train training.yaml --plan --set optimizer.lr=",
    "train training.yaml --plan --set steps=",
    "train training.yaml --plan --set batch_size=",
    "train training.yaml --plan --set data.held_out=",
    "train training.yaml --plan --set data.time_limit_s=",
    "train training.yaml --plan --set checkpoint.every_s=",
)


def number(originals: Path, case: Path, draw: random.Random) -> Trial:
    """Give an odd number to an option or a setting."""
    for name in ("story.yaml", "training.yaml", "film.mp4", "film.m2d", "clips", "videos/clip.mp4"):
        copy(originals / name, case / Path(name).name)
    command, value = draw.choice(_COMMANDS), draw.choice(_NUMBERS)
    words = [word.replace("{model}", str(originals / "model")) for word in command.split()]
    words = [*words[:-1], words[-1] + value] if words[-1].endswith("=") else [*words, value]
    return Trial(words=words, what=f"{words[-1][:60]!r}")
