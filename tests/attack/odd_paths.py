"""Paths to nothing, to something that is not a file, or with odd names, for every argument of m2d."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.attack.mutations import NOT_FILES

# Every place of the command line and of a recipe where a path is given.
ARGUMENTS = (
    "init {}",
    "init new.yaml --from-figure5 {}",
    "check {}",
    "check story.yaml --model {}",
    "check story.yaml --lora {}",
    "check story.yaml --set image={}",
    "generate {} --out o.mp4",
    "generate story.yaml --out {}",
    "generate story.yaml --out {} --force",
    "generate story.yaml --out {} --resume",
    "generate story.yaml --seeds 1-2 --out {}",
    "generate --prompt x --out o.mp4 --model {}",
    "generate story.yaml --out o.mp4 --lora {}",
    "generate story.yaml --out o.mp4 --backend onnx --artifacts {}",
    "generate --out o.mp4 --from {}",
    "extend {} --prompt x --model model",
    "extend film.mp4 --prompt x --model model --out {}",
    "extend film.mp4 --prompt x --model {}",
    "extend film.mp4 --prompt x --model model --lora {}",
    "reroll {} --scene 1 --model model",
    "reroll film.mp4 --scene 1 --model model --out {}",
    "reroll film.mp4 --scene 1 --model {}",
    "reproduce {} --model model",
    "reproduce film.mp4 --model model --out {}",
    "inspect {}",
    "board {}",
    "board film.mp4 --out {}",
    "board film.mp4 --force --out {}",
    "verify {}",
    "verify story.yaml --model {}",
    "verify story.yaml --backend onnx --artifacts {}",
    "bench {}",
    "bench story.yaml --pairs 1 --model {}",
    "train {}",
    "train --plan --model model --data {}",
    "train training.yaml --out {}",
    "train training.yaml --resume --out {}",
    "train training.yaml --plan --model {}",
    "train training.yaml --plan --init {}",
    "train training.yaml --plan --cache {}",
    "train training.yaml --plan --set data.source={}",
    "eval --out report --embedder none {}",
    "eval film.mp4 --embedder none --out {}",
    "eval film.mp4 --embedder none --out report --reference {}",
    "eval film.mp4 --embedder none --out report --prompts {}",
    "export --backend onnx --out g --recipe {}",
    "export --backend onnx --recipe story.yaml --out {}",
    "export --backend onnx --recipe story.yaml --force --out {}",
    "export --backend onnx --recipe story.yaml --out g --lora {}",
    "export --backend onnx --scenes 1 --frames 5 --size 32x32 --out g --model {}",
    "models get minilm --from {}",
    "models get i3d --from {}",
    "models get lpips --from {}",
    "models get efficientnet --from {}",
    "puppet train codec {} --out r",
    "puppet pack --base model --out {}",
    "puppet pack --out p --base {}",
    "puppet pack --out p --base model --codec {}",
    "puppet pack --out p --base model --text {}",
    "puppet pack --out p --base model --reader {}",
    "puppet pack --out p --base model --transformer {}",
    "puppet pack --out p --base model --change {} model",
    "puppet pack --out p --base model --recipes {}",
)
_ENDINGS = ("", ".yaml", ".mp4", ".safetensors", ".json", ".csv", ".whl", ".gif", ".m2d")
_NAMES = (
    "a" * 300,
    "a/" * 2500,
    "two\nlines",
    "\x1b[31mred",
    "\u202eevil",
    "\x01\x02",
    "\udcff\udcfe",
    "e\u0301" * 80,
    "-",
    "--",
    "~",
    "~nobody/x",
    " ",
    ".",
    "/",
    "a\\b",
    "%s%n",
    "[/bold]",
    "http://127.0.0.1:9/x",
    "concat:film.mp4|film.mp4",
    "subfile,,start,0,end,9,,:film.mp4",
    "story.yaml/x",
    "/proc/self/mem",
    "/proc/self/environ",
    "/dev/full",
    "/dev/stdin",
    "/dev/fd/0",
    "/nonexistent/x",
)
_SPARSE_BYTES = 20 << 30


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_SPARSE_BYTES)


def _closed(path: Path) -> None:
    path.write_bytes(b"x" * 100)
    path.chmod(0)


def _closed_folder(path: Path) -> None:
    path.mkdir(mode=0)


def _locked_folder(path: Path) -> None:
    path.mkdir(mode=0o555)


_KINDS: dict[str, Callable[[Path], None]] = {
    **NOT_FILES,
    "sparse": _sparse,
    "no permission": _closed,
    "closed folder": _closed_folder,
    "read-only folder": _locked_folder,
    "link to /proc/self/mem": lambda path: path.symlink_to("/proc/self/mem"),
    "device": lambda path: path.symlink_to("/dev/tty"),
    "one byte": lambda path: path.write_bytes(b"\0") and None,
}


def odd_path(case: Path, draw: random.Random) -> tuple[str, str]:
    """Make something odd in `case`; return the path to give, and what it is."""
    if draw.random() < 0.35:
        name = draw.choice(_NAMES)
        if draw.random() < 0.3 and len(name) < 90 and "/" not in name:
            with_ending = name + draw.choice(_ENDINGS)
            Path(os.fsdecode(case), with_ending).touch()
            return with_ending, f"a file named {with_ending!r}"
        return name, f"{name[:60]!r}"
    kind = draw.choice(sorted(_KINDS))
    name = f"odd{draw.choice(_ENDINGS)}"
    _KINDS[kind](case / name)
    if draw.random() < 0.25:
        return f"{name}/inside", f"in {kind}"
    return name, kind


def is_output(command: str) -> bool:
    """Whether a command of `ARGUMENTS` writes to its path."""
    return "--out {}" in command or "--cache {}" in command or command == "init {}"


def harmless(path: str, case: Path) -> str:
    """Keep what a command makes by its whole name within the trial's folder, outside the case."""
    return str(case.parent / path.lstrip("/")) if path in ("/", "/nonexistent/x") else path
